"""PETRv2 as it must be: subclasses of Paddle3D's parts, each stating what upstream gets wrong.

``build_model`` makes a model from a parsed ``config/models/*.yml``; ``model.losses(batch)`` trains
it, ``model.predict(batch)`` uses it, :func:`petrflow.weights.load.load_weights` fills it.

For training, export and the stages. Nothing above this package touches the internals of Paddle3D.
It must not read files of a data set, know a schedule, or rename a parameter of upstream's, because
published weights go by those names.
"""

from petrflow.model.build import build_model
from petrflow.model.petr import PetrV2

__all__ = ["PetrV2", "build_model"]
