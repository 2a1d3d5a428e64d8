"""Paddle3D's compiled operators, as names that Paddle3D's own modules can import on Python 3.12 and
newer.

Upstream fault: ``import paddle3d`` imports all its models, and those say ``from paddle3d.ops import
voxelize`` and the like. ``paddle3d.ops`` answers with an import hook of the ``find_module`` form,
which Python 3.12 removed. Symptom: ``ImportError: cannot import name 'voxelize' from
'paddle3d.ops'``. Seen with paddle3d 1.0.0 on Python 3.12.1 and 3.13.0; on Python 3.11 Paddle3D's
hook still answers.

The hook below has today's form and makes the same modules. Each of them compiles its operator when
one of its functions is used for the first time. PETR uses none.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

PACKAGE = "paddle3d.ops"


class _Operators(MetaPathFinder, Loader):
    """Finds and makes the modules that ``paddle3d.ops.custom_ops`` lists."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        if package != PACKAGE or name not in sys.modules[PACKAGE].custom_ops:
            return None
        return ModuleSpec(fullname, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module: ModuleType = sys.modules[PACKAGE].Paddle3dCustomOperatorModule(spec.name.rpartition(".")[2], spec.name)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: an operator is compiled when it is used."""


def offer_paddle3d_operators() -> None:
    """Let ``from paddle3d.ops import NAME`` work from here on; imports nothing."""
    if sys.version_info >= (3, 12) and not any(isinstance(finder, _Operators) for finder in sys.meta_path):
        sys.meta_path.append(_Operators())
