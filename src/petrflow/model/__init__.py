"""PETRv2 as it must be: subclasses of Paddle3D's parts, each stating what upstream gets wrong.

``build_model`` makes a model from a parsed ``config/models/*.yml``; ``model.losses(batch)`` trains it, ``model.predict(batch)``
uses it, ``load_weights`` fills it.
"""

from petrflow.model.build import build_model
from petrflow.model.petr import PetrV2
from petrflow.samples.types import Detections
from petrflow.weights.load import LoadReport, load_weights

__all__ = ["Detections", "LoadReport", "PetrV2", "build_model", "load_weights"]
