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
    known: dict[str, dict[str, int]] = {}
    for split, table in counts.items():
        known[split] = {}
        for name in table.keys() & class_of.keys():
            known[split][class_of[name]] = known[split].get(class_of[name], 0) + table[name]
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
    unmapped = {name: count for name, count in unmapped.items() if name not in class_of}
    if unmapped:
        listing = ", ".join(
            f"{name} {count}" for name, count in sorted(unmapped.items(), key=lambda item: (-item[1], item[0]))
        )
        findings.append(
            Finding(
                "warn",
                "classes",
                "boxes of unmapped class names are neither trained on nor scored",
                "class_map",
                listing,
            )
        )
    return findings
