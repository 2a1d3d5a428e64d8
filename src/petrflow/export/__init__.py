"""A trained model as files that need no training code: Paddle's static graphs, ONNX, a runner.

For ``petrflow.stages`` and for the demo, which runs an exported model. ``runner.py`` is copied into
each export and must import nothing of petrflow. An export must not appear unless its answers agree
with the eager model's on real samples.
"""
