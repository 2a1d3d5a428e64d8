"""What detections are worth: the nuScenes metrics of a split, with one process or with many.

For the stages, the training loop, the export and the reports. It takes any model that predicts
(:class:`petrflow.samples.types.Predicts`) and must not know PETRv2, training or the kind of a data
set. Its figures must stay those of the nuscenes-devkit.
"""
