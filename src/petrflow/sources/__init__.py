"""The doors: each turns one kind of source into a nuScenes root with its tables and ``splits.json``.

For ``petrflow.stages``, the preflight checks and the workflow's questions before the first job. A
door must not write into a folder that petrflow did not make, must not change its source, and must
not import another door, the annotation store or anything that trains.
"""
