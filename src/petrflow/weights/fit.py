"""How well a set of weights fits a network: by names and shapes alone, before anything is
loaded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from petrflow.config.network import CONSTANTS, class_heads
from petrflow.errors import PetrflowError
from petrflow.messages import _

LEAST_SHARE = 0.9
"""Share of a network's entries, by number, that weights must hold."""

Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Fit:
    """What of a set of weights fits a network; every field holds names of entries.

    Attributes
    ----------
    matched : of both, with the same shape.
    missing : of the network, not in the weights; they keep their initial values.
    unexpected : in the weights, not of the network.
    wrong_shape : of both, with shapes that differ; they keep their initial values.
    fresh : of the network, and called ``fresh`` by its model file. They start random even if the
        weights hold them.
    constants : of the network, and given by its model file. No weights overwrite them.
    class_heads : of the network. Their shape depends on the classes, so that weights need not fit
        them.
    by_class : class heads whose rows were taken by the names of their classes.
    kept_classes, fresh_classes : classes of the network whose rows come from the weights, and those
        whose rows start random.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    wrong_shape: tuple[str, ...]
    fresh: tuple[str, ...] = ()
    constants: tuple[str, ...] = ()
    class_heads: frozenset[str] = frozenset()
    by_class: tuple[str, ...] = ()
    kept_classes: tuple[str, ...] = ()
    fresh_classes: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Share of the network's entries that the weights hold, without class heads."""
        wanted = [name for name in (*self.matched, *self.missing, *self.wrong_shape) if name not in self.class_heads]
        found = [name for name in self.matched if name not in self.class_heads]
        return len(found) / len(wanted) if wanted else 1.0

    def __str__(self) -> str:
        loaded = len(self.matched) + len(self.by_class)
        text = _(
            "{loaded} of {whole} entries loaded",
            loaded=loaded,
            whole=loaded + len(self.missing) + len(self.wrong_shape),
        )
        for name in ("missing", "unexpected", "wrong_shape", "fresh"):
            names = getattr(self, name)
            if names:
                text += f"; {name.replace('_', ' ')} {len(names)} ({_some(names)})"
        if self.kept_classes or self.fresh_classes:
            kept, fresh = (", ".join(names) or "none" for names in (self.kept_classes, self.fresh_classes))
            text += _(
                "; classes with the weights' rows: {kept}; classes that start random: {fresh}", kept=kept, fresh=fresh
            )
        return text


def fit(network: Shapes, weights: Shapes, fresh: Collection[str] = ()) -> Fit:
    """Compare a network's entries with those of a set of weights.

    Parameters
    ----------
    network, weights : mapping
        Shape of each entry by name.
    fresh : collection of str
        Beginnings of names of entries that start random (``fresh`` in the model file).
    """
    constants = tuple(name for name in network if name in CONSTANTS)
    left_out = tuple(name for name in network if name not in CONSTANTS and _begins(name, fresh))
    own = [name for name in network if name not in CONSTANTS and not _begins(name, fresh)]
    same = {name for name in own if name in weights and tuple(weights[name]) == tuple(network[name])}
    return Fit(
        matched=tuple(name for name in own if name in same),
        missing=tuple(name for name in own if name not in weights),
        unexpected=tuple(name for name in weights if name not in network),
        wrong_shape=tuple(name for name in own if name in weights and name not in same),
        fresh=left_out,
        constants=constants,
        class_heads=frozenset(class_heads(own)),
    )


def misfit(found: Fit, network: Shapes, weights: Shapes) -> str | None:
    """Return why weights do not belong to a network, or None when they do."""
    if found.share >= LEAST_SHARE:
        return None
    lost = [name for name in found.missing if name not in found.class_heads]
    other = [name for name in found.wrong_shape if name not in found.class_heads]
    parts = [_("not found: {names}", names=_some(lost))] if lost else []
    if other:
        name = other[0]
        parts.append(
            _(
                "of another shape: {names} ({name} is {given}, not {wanted})",
                names=_some(other),
                name=name,
                given=list(weights[name]),
                wanted=list(network[name]),
            )
        )
    whole = len(found.matched) + len(lost) + len(other)
    return _(
        "hold {share:.0f} % of the model's {whole} entries, and {least:.0f} % are needed; {parts}. Name the weights that belong to the run's model file, list there under `fresh` what starts random, or set `partial_weights: true`.",
        share=100 * found.share,
        whole=whole,
        least=100 * LEAST_SHARE,
        parts="; ".join(parts),
    )


def require(found: Fit, network: Shapes, weights: Shapes, where: str) -> None:
    """Raise when weights do not belong to a network.

    Raises
    ------
    PetrflowError
        With the share that fits and what does not.
    """
    why = misfit(found, network, weights)
    if why is not None:
        raise PetrflowError(_("{where}: these weights {why}", where=where, why=why))


def _begins(name: str, beginnings: Collection[str]) -> bool:
    return any(name == beginning or name.startswith(f"{beginning.rstrip('.')}.") for beginning in beginnings)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (_(", … ({count} in all)", count=len(names)) if len(names) > 3 else "")
