"""The errors that petrflow raises for its users. Code tells them apart by class, never by their
text.

Every package may raise them. Nothing here may import another module of petrflow.
"""

from __future__ import annotations


class PetrflowError(Exception):
    """Something a person can put right: one clear sentence, then the remedy. Scripts print it
    without a traceback.
    """


class InputError(PetrflowError):
    """The config, a model file, weights or data cannot be used as they are."""


class Locked(PetrflowError):
    """Another live process has the lock: waiting helps."""


class CannotWrite(PetrflowError):
    """A file cannot be written: the disk or the quota is full, or this user may not write there.
    Waiting does not help.
    """


class MachineError(PetrflowError):
    """The machine cannot do what is asked: no usable GPU, too little memory, the wrong Paddle, a
    process that died.
    """
