"""Every mistake that can be known before the first job is a sentence, with nothing changed on disk."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from petrflow.preflight.mistakes import read_all, report, require_fit
from tests.helpers.mistakes import BASE, CASES, MODEL, REPOSITORY, SHIPPED, Case, _other_network, make, tree


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what a configuration names."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "models").symlink_to(REPOSITORY / "config" / "models")
    (tmp_path / "resources").symlink_to(REPOSITORY / "resources")
    (tmp_path / "Snakefile").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_configuration_that_the_mistakes_are_put_into_has_none(folder: Path) -> None:
    make(Case("none", ()), folder)
    document = read_all(["config/config.yaml"])
    assert not document.mistakes, report(document.mistakes)
    assert document.values["runs"]["second"]["weights"] == {"run": "first"}


@pytest.mark.parametrize("case", [case for case in CASES if not case.arguments], ids=lambda case: case.name)
def test_a_mistake_is_a_sentence_and_nothing_changes_on_disk(folder: Path, case: Case) -> None:
    make(case, folder)
    before = tree(folder)
    mistakes = read_all(["config/config.yaml"]).mistakes
    said = report(mistakes)
    assert mistakes, "nothing was found"
    for part in case.says:
        assert part in said, said
    for mistake in mistakes:
        line = str(mistake)
        assert "\n" not in line and line.endswith((".", "…")) and "Traceback" not in line and "Error" not in line, line
    assert tree(folder) == before


def test_all_mistakes_are_said_together(folder: Path) -> None:
    together = [
        case
        for case in CASES
        if case.name
        in ("weights missing", "source missing", "metric unknown", "density", "num_querry", "demo scene unknown")
    ]

    def change(where: Path, config: dict) -> None:
        for case in together:
            if case.name != "num_querry":
                case.change(where, config)
        config["runs"]["third"] = {**BASE["runs"]["first"]}
        first = config["runs"]["first"]
        next(case for case in together if case.name == "num_querry").change(where, config)
        config["runs"]["third"]["model"], first["model"] = first["model"], "petrv2_tiny"

    make(Case("all", (), change), folder)
    said = report(read_all(["config/config.yaml"]).mistakes)
    for part in ("w.pdparams does not exist", "own_roto does not exist", "NDSS", "at most 4", "num_querry"):
        assert part in said, said
    assert said.startswith("There are 5 mistakes"), said


def test_an_archive_that_was_unpacked_and_removed_is_not_missed(folder: Path) -> None:
    def change(_: Path, config: dict) -> None:
        config["datasets"]["own"] |= {"source": ["v1.0-trainval_meta.tgz"], "remove_archives": True}

    make(Case("removed", (), change), folder)
    assert not read_all(["config/config.yaml"]).mistakes


def test_weights_that_may_be_partial_are_taken(folder: Path) -> None:
    def change(where: Path, config: dict) -> None:
        _other_network(where, config)
        config["runs"]["first"]["partial_weights"] = True

    make(Case("partial", (), change), folder)
    assert not read_all(["config/config.yaml"]).mistakes


def test_fetched_weights_are_held_against_every_run_that_names_them(folder: Path) -> None:
    source = {"url": "https://example.org/w", "sha256": None}

    def change(_: Path, config: dict) -> None:
        config["runs"]["first"]["weights"] = source
        config["runs"]["second"] |= {"weights": source, "model": "petrv2_vovnet_gridmask_p4_800x320"}

    make(Case("fetched", (), change), folder)
    document = read_all(["config/config.yaml"])
    assert not document.mistakes
    with pytest.raises(Exception, match=r"^runs\.second\.weights: .*not found") as caught:
        require_fit(Path(SHIPPED), document.values, source)
    assert "runs.first" not in str(caught.value)


JUNK: list[Any] = [
    None, 3, 2.5, -1, True, "x", "", [], {}, [1, "a"], {"a": 1}, [None], {"run": "first"}, {"url": None}, "~/x", float("nan"), 1e400,
    {"file": 3}, [[]], [{}], "https://x/y", "文件", "results/first/train/best_model/model.pdparams",
]  # fmt: skip


def _paths(values: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    children = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in children:
        yield from _paths(value, (*path, key))


def test_no_value_at_no_place_ends_in_a_traceback(folder: Path) -> None:
    draw = random.Random(0)
    written = yaml.safe_load(MODEL.read_text())
    for _ in range(60):
        config, model = copy.deepcopy(BASE), copy.deepcopy(written)
        config["runs"]["first"]["model"] = "own.yml"
        for _ in range(draw.randrange(1, 4)):
            target = draw.choice([config, config, model])
            *groups, last = draw.choice(list(_paths(target)))
            entry: Any = target
            for key in groups:
                entry = entry[key]
            entry[last] = copy.deepcopy(draw.choice(JUNK))
        (folder / "own.yml").write_text(yaml.safe_dump(model, allow_unicode=True))
        make(Case("junk", (), lambda _, values, config=config: values.update(config)), folder)
        assert all(str(mistake) for mistake in read_all(["config/config.yaml"]).mistakes)
