"""Folders of results that petrflow did not make stay as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from petrflow import stages
from petrflow.errors import PetrflowError
from petrflow.files.provenance import provenance, require_own_folder


def test_a_folder_of_the_users_in_a_stages_place_is_refused_and_stays(tmp_path: Path) -> None:
    place = tmp_path / "results" / "run" / "export"
    (place / "deep").mkdir(parents=True)
    (place / "deep" / "labels.json").write_text("mine")
    with pytest.raises(PetrflowError, match=r"export holds files that petrflow did not make.*Move it elsewhere"):
        with stages._successor(place, {}, None, None) as (folder, _):
            (folder / "model.json").write_text("{}")
    assert [path.name for path in place.parent.rglob("*")] == ["export", "deep", "labels.json"]
    assert (place / "deep" / "labels.json").read_text() == "mine"


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
