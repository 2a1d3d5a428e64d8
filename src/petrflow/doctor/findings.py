"""What the doctor finds, and how a person reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or odd.

    Attributes
    ----------
    level : str
        'fail' makes training pointless, 'warn' deserves a look.
    check : str
        Name of the check.
    cause : str
        The likely cause, in one clause.
    setting : str
        The setting of a `kind: xtreme1` entry that mends it, '' where there is none.
    evidence : str
        The figures that led there.
    parts : tuple of str
        Of a finding on units: what is in the wrong one, `boxes`, `externals` or `cloud`.
    unit : str
        Of a finding on units: the one that it is in, `cm` or `mm`.
    """

    level: str
    check: str
    cause: str
    setting: str = ""
    evidence: str = ""
    parts: tuple[str, ...] = ()
    unit: str = ""

    def sentence(self, kind: str) -> str:
        """Cause, figures and remedy; other doors than xtreme1 have no settings, so the tables
        themselves are to blame.
        """
        remedy = ""
        if self.setting:
            remedy = (
                f" Set `{self.setting}` in the dataset's entry."
                if kind == "xtreme1"
                else " Correct the tables, and run again."
            )
        evidence = f" ({self.evidence})" if self.evidence else ""
        return f"{self.cause}{evidence}.{remedy}"


_PARTS = {"boxes": "boxes", "externals": "extrinsics", "cloud": "point clouds"}


def wrong_unit(parts: tuple[str, ...], unit: str, evidence: str, cause: str = "") -> Finding:
    """Find that some parts of a data set are in `cm` or `mm`; the cause names them where none is
    given.
    """
    setting = unit if len(parts) == len(_PARTS) else f"{{{', '.join(f'{part}: {unit}' for part in parts)}}}"
    named = cause or f"{', '.join(_PARTS[part] for part in parts)} are in {unit}"
    return Finding("fail", "units", named, f"length_unit: {setting}", evidence, parts, unit)


def as_text(report: Mapping[str, Any]) -> str:
    """The report for people: verdict, findings, then the figures."""
    lines = [f"doctor: {report['verdict']}: {report['dataset']} ({report['kind']})", ""]
    for finding in report["findings"]:
        lines.append(f"{finding['level'].upper():5s} {finding['check']}: {finding['sentence']}")
    if not report["findings"]:
        lines.append("Nothing odd was found.")
    lines += ["", f"frames: {report['frames']}", "", "camera                boxes in the image  of boxes   images fit"]
    for name, camera in report["cameras"].items():
        fit = camera.get("image_fit")
        lines.append(
            f"{name:22s}{camera['boxes_inside']:17d}{camera['share']:10.1%}   {'-' if fit is None else f'{fit:+.3f}'}"
        )
    lines += ["", "class                          train       val"]
    names = sorted({name for counts in report["classes"].values() for name in counts})
    for name in names:
        train, val = (report["classes"][split].get(name, 0) for split in ("train", "val"))
        lines.append(f"{name:26s}{train:10d}{val:10d}")
    lines += ["", *(f"{key}: {value}" for key, value in report["figures"].items())]
    if report["pictures"]:
        lines += ["", "pictures: " + ", ".join(report["pictures"])]
    return "\n".join(lines) + "\n"
