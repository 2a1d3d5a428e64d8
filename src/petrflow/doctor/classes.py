"""Are the classes of a data set named and frequent enough?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from petrflow.doctor.findings import Finding


def check_classes(
    counts: Mapping[str, Mapping[str, int]], class_names: Sequence[str], unmapped: Mapping[str, int]
) -> list[Finding]:
    """Count labels per class and split."""
    findings = []
    known = {
        split: {name: count for name, count in table.items() if name in class_names} for split, table in counts.items()
    }
    others = sorted({name for table in counts.values() for name in table} - set(class_names))
    if not sum(sum(table.values()) for table in known.values()):
        example = next(iter(unmapped or dict.fromkeys(others, 0)), "Car")
        return [
            Finding(
                "fail",
                "classes",
                "no box has a class that training knows",
                f"class_map: {{{example}: car}}",
                f"names: {', '.join(others) or 'none'}",
            )
        ]
    for split in ("train", "val"):
        if not known.get(split):
            findings.append(Finding("fail", "classes", f"the {split} split holds no box of a trained class", "splits"))
    only_val = sorted(set(known.get("val", {})) - set(known.get("train", {})))
    if only_val and known.get("train"):
        findings.append(
            Finding("warn", "classes", f"{', '.join(only_val)} in val but never in train: cannot be learned", "splits")
        )
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
