"""Build a model from the component tree of a Paddle3D config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import paddle.utils.unique_name
import paddle3d.models  # noqa: F401  (fills the registries)
from paddle3d.apis import manager

from petrflow.errors import InputError
from petrflow.model import attention, head, image_network, petr

COMPONENTS = {
    "Petr3D": petr.PetrV2,
    "VoVNetCP": image_network.VoVNet,
    "CPFPN": image_network.Pyramid,
    "PETRHead": head.PetrV2Head,
    "PETRTransformer": attention.Transformer,
    "PETRDNTransformer": attention.DenoisingTransformer,
    "PETRTransformerDecoderLayer": attention.DecoderLayer,
}
"""Our parts by the upstream name they stand in for; any other name is looked up in Paddle3D's
registries.
"""


def build_model(model_config: Mapping[str, Any], num_cameras: int = 6) -> petr.PetrV2:
    """Build the model of a parsed ``config/models/*.yml`` with fresh weights.

    Parameters
    ----------
    model_config : mapping
        With ``input.image_size`` (height, width) and the component tree ``model``.
    num_cameras : int
        Cameras of one frame, 1 to 12. The weights do not depend on it.
    """
    if not 1 <= num_cameras <= 12:
        raise InputError(f"num_cameras is {num_cameras}; a model takes 1 to 12 cameras.")
    tree = dict(model_config["model"])
    recompute = bool(tree.pop("use_recompute", False))
    tree["backbone"] = {"use_recompute": recompute, **tree["backbone"]}
    # Parameter names start anew with each model, so that an optimizer's saved state finds them in
    # another process.
    with paddle.utils.unique_name.guard():
        tree = {key: _build(value, f"model.{key}", recompute) for key, value in tree.items() if key != "type"}
        shown = {"image_shape": model_config["input"]["image_size"]}
        shown["previous_frame"] = model_config["input"].get("previous_frame", True)
        arguments = {"num_cameras": num_cameras, **shown, **tree}
        return _make(petr.PetrV2, arguments, "model", str(model_config["model"].get("type")))


def _build(node: Any, path: str, recompute: bool) -> Any:
    if isinstance(node, list):
        return [_build(item, f"{path}[{index}]", recompute) for index, item in enumerate(node)]
    if not isinstance(node, Mapping):
        return node
    arguments = {key: _build(value, f"{path}.{key}", recompute) for key, value in node.items() if key != "type"}
    if "type" not in node or path.endswith("backbone.spec"):
        return arguments
    if node["type"] == "PETRTransformerDecoderLayer":
        arguments.setdefault("use_recompute", recompute)
    return _make(_component(node["type"], path), arguments, path, node["type"])


def _make(component: Any, arguments: Mapping[str, Any], path: str, name: str) -> Any:
    try:
        return component(**arguments)
    except (TypeError, ValueError, AssertionError, KeyError) as error:
        raise InputError(f"{path} ({name}): {error}. Correct it in the model file.") from error


def _component(name: str, path: str) -> Any:
    if name in COMPONENTS:
        return COMPONENTS[name]
    for registry in (getattr(manager, registry) for registry in manager.__all__):
        if name in registry.components_dict:
            return registry.components_dict[name]
    raise InputError(f"{path}.type: no component is called {name!r}. Use one of Paddle3D's names.")
