"""One more entry in the config: what it builds, and that it goes all the way through training."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import yaml

from petrflow.files import read_json
from tests.helpers.workflow import REPOSITORY, copy_workflow, planned, read_config, run_snakemake, write_config
from tests.helpers.xtreme1_writer import Export, write_export


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default config, all of it made (by empty stages)."""
    config = yaml.safe_load((REPOSITORY / "config" / "config.yaml").read_text())
    folder = copy_workflow(tmp_path_factory.mktemp("default") / "project", config, stub=True)
    run_snakemake(folder, "all")
    return folder


def with_parking_lot(folder: Path, source: Path, **settings: object) -> Path:
    config = read_config(folder)
    config["datasets"]["parking_lot"] = {"kind": "xtreme1", "source": str(source), **settings}
    config["runs"]["parking_lot"] = {**config["runs"]["default"], "dataset": "parking_lot"}
    write_config(folder, config)
    return folder


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """Something at the source's path; empty stages do not read it."""
    (tmp_path / "export" / "result").mkdir(parents=True)
    (tmp_path / "export" / "result" / "a.json").write_text("[]")
    return tmp_path / "export"


def test_the_default_config_plus_one_xtreme1_entry_builds_only_what_the_entry_needs(
    finished: Path, export: Path, tmp_path: Path
) -> None:
    folder = with_parking_lot(Path(shutil.copytree(finished, tmp_path / "project", symlinks=True)), export)
    assert planned(folder, "train_all") == {"xtreme1 parking_lot", "annotate parking_lot", "train parking_lot"}


def test_a_new_export_at_the_old_path_is_imported_again_and_one_that_is_gone_is_not_missed(
    finished: Path, export: Path, tmp_path: Path
) -> None:
    folder = with_parking_lot(Path(shutil.copytree(finished, tmp_path / "project", symlinks=True)), export)
    run_snakemake(folder, "annotate_all")
    assert planned(folder, "annotate_all") == set()
    (export / "result" / "a.json").write_text("[{}]")
    assert planned(folder, "annotate_all") == {"xtreme1 parking_lot", "annotate parking_lot"}


@pytest.mark.slow
def test_an_export_trains_for_an_epoch_through_the_workflow(synthetic_root: Path, tmp_path: Path) -> None:
    splits = write_export(synthetic_root, tmp_path / "export", Export(old_names=True, row_major=False))
    config = yaml.safe_load((REPOSITORY / "config" / "config.yaml").read_text())
    config["datasets"] = {}
    config["runs"]["default"]["schedule"] |= {"epochs": 1, "device": "cpu", "do_eval": True, "save_interval": 1}
    folder = with_parking_lot(copy_workflow(tmp_path / "project", {**config}), tmp_path / "export", splits=splits)
    config = read_config(folder)
    del config["runs"]["default"]
    write_config(folder, config)
    run_snakemake(folder, "train_all", "doctor", timeout=3000)
    assert (folder / "results" / "parking_lot" / "train" / "best_model" / "model.pdparams").stat().st_size > 1_000_000
    assert read_json(folder / "results" / "parking_lot" / "doctor" / "doctor.json")["verdict"] == "fit"
    assert (folder / "results" / "parking_lot" / "train" / "metrics.json").exists()
    assert sorted(os.listdir(folder / "data")) == [".cache", "parking_lot"]
