"""Are the classes of a data set named and frequent enough?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from petrflow.doctor.findings import Finding
from petrflow.nuscenes.names import CATEGORY_OF_DETECTION
from petrflow.nuscenes.synonyms import labels_of


def check_classes(
    counts: Mapping[str, Mapping[str, int]], class_names: Sequence[str], unmapped: Mapping[str, int]
) -> list[Finding]:
    """Count labels per class and split."""
    findings = []
    names = sorted({name for table in counts.values() for name in table})
    class_of = {
        name: class_names[label] for name, label in zip(names, labels_of(names, class_names), strict=True) if label >= 0
    }
    known = {split: _count_classes(table, class_of) for split, table in counts.items()}
    others = [name for name in names if name not in class_of]
    if not sum(sum(table.values()) for table in known.values()):
        example = next(iter(unmapped or dict.fromkeys(others, 0)), "Car")
        return [
            Finding(
                "fail",
                "classes",
                "no box has a class that training knows",
                f"class_map: {{{example}: {'car' if 'car' in class_names else class_names[0]}}}",
                f"names: {', '.join(others) or 'none'}",
            )
        ]
    for split in ("train", "val"):
        if not known.get(split):
            findings.append(Finding("fail", "classes", f"the {split} split holds no box of a trained class", "splits"))
    absent = [name for name in class_names if name not in {*known.get("train", {}), *known.get("val", {})}]
    if absent and set(class_names) != set(CATEGORY_OF_DETECTION):  # nuScenes' ten are in few data sets
        findings.append(
            Finding(
                "warn",
                "classes",
                f"no box is called {', '.join(absent)}: cannot be learned",
                "class_names of the model file, or class_map",
                f"other names: {', '.join(others) or 'none'}",
            )
        )
    only_val = sorted(set(known.get("val", {})) - set(known.get("train", {})))
    if only_val and known.get("train"):
        findings.append(
            Finding("warn", "classes", f"{', '.join(only_val)} in val but never in train: cannot be learned", "splits")
        )
    return findings + _check_unmapped({name: count for name, count in unmapped.items() if name not in class_of})


def _count_classes(table: Mapping[str, int], class_of: Mapping[str, str]) -> dict[str, int]:
    """Return the number of boxes of each class, of ``table``'s numbers by the labels' own names."""
    counts: dict[str, int] = {}
    for name in table.keys() & class_of.keys():
        counts[class_of[name]] = counts.get(class_of[name], 0) + table[name]
    return counts


def _check_unmapped(unmapped: Mapping[str, int]) -> list[Finding]:
    """Name the boxes whose class names are none of the model's, the most frequent first."""
    if not unmapped:
        return []
    ordered = sorted(unmapped.items(), key=lambda item: (-item[1], item[0]))
    listing = ", ".join(f"{name} {count}" for name, count in ordered)
    cause = "boxes of unmapped class names are neither trained on nor scored"
    return [Finding("warn", "classes", cause, "class_map", listing)]
