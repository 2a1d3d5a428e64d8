"""Samples and batches: the pictures, matrices, times and boxes of keyframes as arrays for a model.

For the model, training, evaluation, export, prediction and reports. The package must not import Paddle, because its worker
processes start without it, and must not write files. The order of batches and all that is random
in them must follow from the seed, the epoch and the sample alone.
"""
