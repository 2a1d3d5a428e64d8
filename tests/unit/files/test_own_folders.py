"""Folders of results that petrflow did not make stay as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from petrflow import stages
from petrflow.errors import PetrflowError
from petrflow.files.provenance import provenance, require_own_folder
from tests.helpers.trees import state_of


def test_a_folder_of_the_users_in_a_stages_place_is_refused_and_stays(tmp_path: Path) -> None:
    place = tmp_path / "results" / "run" / "export"
    (place / "deep").mkdir(parents=True)
    (place / "deep" / "labels.json").write_text("mine")
    with pytest.raises(PetrflowError, match=r"export holds files that petrflow did not make.*Move it elsewhere"):
        with stages._successor(place, {}, None, None) as (folder, _):
            (folder / "model.json").write_text("{}")
    assert [path.name for path in place.parent.rglob("*")] == ["export", "deep", "labels.json"]
    assert (place / "deep" / "labels.json").read_text() == "mine"


@pytest.mark.parametrize("name", ["features.plan", "best_model/notes.md", ".hidden", "link"])
def test_a_file_of_the_users_in_a_folder_that_petrflow_made_is_not_lost(tmp_path: Path, name: str) -> None:
    place = tmp_path / "results" / "run" / "export"
    for _ in range(2):  # what petrflow wrote itself, or what systems and Python leave, is in nobody's way
        with stages._successor(place, {}, None, None) as (folder, _record):
            (folder / "best_model").mkdir()
            (folder / "model.json").write_text("{}")
        (place / "__pycache__").mkdir()
        for leftover in ("__pycache__/runner.pyc", ".DS_Store"):
            (place / leftover).write_text("")
    (place / name).symlink_to("elsewhere") if name == "link" else (place / name).write_text("mine")
    before = state_of(place)
    with pytest.raises(PetrflowError, match=rf"but {name} in it was not, and would be lost\. Move it out"):
        with stages._successor(place, {}, None, None):
            pytest.fail("the work began")
    assert state_of(place) == before
    (place / name).rename(tmp_path / "mine")
    with stages._successor(place, {}, None, None):
        pass
    assert not (place / "model.json").exists()


@pytest.mark.parametrize("kind", ["file", "link", "dangling"])
def test_a_file_or_a_link_in_a_stages_place_is_refused(tmp_path: Path, kind: str) -> None:
    place, other = tmp_path / "train", tmp_path / "other"
    if kind == "file":
        place.write_text("mine")
    else:
        place.symlink_to(other)
        if kind == "link":
            other.mkdir()
    with pytest.raises(PetrflowError, match=r"train is a (file|link) that petrflow did not make"):
        require_own_folder(place)
    assert place.is_symlink() or place.read_text() == "mine"


def test_what_a_stage_has_made_is_replaced_and_an_empty_folder_is_nobodys(tmp_path: Path) -> None:
    place = tmp_path / "export"
    (place / "best_model").mkdir(parents=True)
    for text in ("first", "second"):
        with stages._successor(place, {}, None, None) as (folder, _):
            (folder / "model.json").write_text(text)
        assert (place / "model.json").read_text() == text
    with provenance(tmp_path / "new" / "classic_train-provenance.json", {}):
        pass
    require_own_folder(tmp_path / "new")
