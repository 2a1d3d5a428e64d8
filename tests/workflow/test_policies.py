"""What the workflow decides before the first job: runs to judge, GPUs, names of URLs, paths with a space."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from petrflow.annotations.layout import FORMAT_VERSION
from petrflow.config import shaping
from petrflow.files.provenance import provenance
from petrflow.files.receipts import Contents, Order
from tests.helpers.workflow import REPOSITORY, TWO_RUNS, copy_workflow


@pytest.fixture(autouse=True)
def _workflow_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "workflow"))


RUNS: dict[str, Any] = {name: {"schedule": {"device": "auto", "devices": 1}} for name in ("first", "second", "third")}


def test_a_run_that_only_evaluates_may_do_so_on_a_slow_cpu() -> None:
    from preflight import Starting, runs_to_judge

    jobs = [Starting("train", "first", 1), Starting("baseline", "first", 1), Starting("demo", "second", 1)]
    judged = runs_to_judge([*jobs, Starting("annotate", "third", 0)], RUNS)
    assert set(judged) == {"first", "second"}
    assert "allow_slow_cpu" not in judged["first"]["schedule"]
    assert judged["second"]["schedule"]["allow_slow_cpu"] is True
    assert "allow_slow_cpu" not in RUNS["second"]["schedule"]


@pytest.mark.parametrize(("offered", "said"), [(None, False), (1, True), (2, False)])
def test_more_gpus_than_were_given_are_refused(offered: int | None, said: bool) -> None:
    from preflight import Starting, too_many_gpus

    sentence = too_many_gpus([Starting("train", "first", 2)], offered)
    assert bool(sentence) is said
    assert sentence is None or "runs.first.schedule.devices asks for 2 GPUs" in sentence


@pytest.mark.parametrize(("seen", "given", "offered"), [(8, None, 8), (0, None, 1), (8, 2, 2)])
def test_a_workflow_is_given_the_gpus_that_can_be_seen(
    seen: int, given: int | None, offered: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hooks
    from snakemake.resources import Resource

    monkeypatch.setattr(hooks, "visible_here", lambda: [f"GPU-{number}" for number in range(seen)])
    resources = {} if given is None else {"gpu": Resource("gpu", given)}
    workflow = SimpleNamespace(
        local_exec=True,
        global_resources=resources,
        register_resource=lambda name, value: resources.update({name: value}),
    )
    hooks._offer_gpus(workflow)
    assert resources["gpu"].value == offered
    workflow.local_exec = False  # a cluster hands out its own
    resources.clear()
    hooks._offer_gpus(workflow)
    assert not resources


def test_what_is_personal_in_a_url_names_no_file_and_goes_into_no_record() -> None:
    from petrflow.fetch.links import public, weights_key

    signed = {"url": "https://someone:secret@host/models/model.pdparams?token=abc"}
    assert public(signed) == {"url": "https://host/models/model.pdparams"}
    assert weights_key(signed) == weights_key({"url": "https://host/models/model.pdparams?token=xyz"})


def test_a_source_that_is_gone_to_save_space_has_not_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from source_marks import source_mark

    monkeypatch.chdir(tmp_path)
    settings = {"kind": "nuscenes", "source": "source", "version": "v1.0-mini"}
    contents = Contents(tmp_path / "contents.json")
    tables = tmp_path / "source" / "v1.0-mini"
    tables.mkdir(parents=True)
    (tables / "sample.json").write_text("[]")
    mark = source_mark(settings, "streets", contents)
    assert mark is not None
    order = Order("nuscenes", "streets", "0" * 16, {"content of source": mark}, {}, tmp_path / "receipt.json")
    with provenance(Path("results/streets/root/provenance.json"), {}, None, order):
        pass
    shutil.rmtree(tmp_path / "source")
    assert source_mark(settings, "streets", contents) == mark


def test_the_plan_knows_the_form_of_the_annotation_store() -> None:
    from stage import VERSIONS

    assert VERSIONS["annotate"] == FORMAT_VERSION


def test_defaults_that_are_spelled_out_are_left_out_at_any_depth() -> None:
    entry = {"dataset": "a", "model": "b", "schedule": {"batch_size": 1, "epochs": 3}, "demo": {"scene": None}}
    assert shaping("run", entry) == {"dataset": "a", "model": "b", "schedule": {"epochs": 3.0}}


def test_a_folder_with_a_space_and_an_interpreter_in_one_work(tmp_path: Path) -> None:
    folder = copy_workflow(tmp_path / "my project", TWO_RUNS, stub=True)
    (folder / "v env").symlink_to(Path(sys.prefix))
    command = [
        str(folder / "v env" / "bin" / "python"),
        "-m",
        "snakemake",
        "--cores",
        "1",
        "results/streets/annotations/val.arrow",
    ]
    said = subprocess.run(command, cwd=folder, env=os.environ, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert (folder / "results" / "streets" / "annotations" / "val.arrow").exists()


def test_the_profile_for_slurm_names_rules_that_there_are() -> None:
    settings = yaml.safe_load((REPOSITORY / "profiles" / "slurm" / "config.yaml").read_text())
    text = "".join(path.read_text() for path in (REPOSITORY / "workflow" / "rules").glob("*.smk"))
    rules = set(re.findall(r"^rule (\w+):", text, re.MULTILINE))
    assert settings["executor"] == "slurm"
    assert set(settings["set-resources"]) | set(settings["set-threads"]) <= rules


def test_the_manifest_for_kubernetes_is_valid() -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    manifest = yaml.safe_load((REPOSITORY / "profiles" / "kubernetes" / "job.yaml").read_text())
    kubernetes_validate.validate(manifest, "1.31", strict=True)
    container = manifest["spec"]["template"]["spec"]["containers"][0]
    assert container["command"][0] == "snakemake", "signals must reach Snakemake and not a shell"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\ntrain: the disk is full.\n", "the disk is full."),
        ("\ntrain: old.\n\n---- 2026 train\n\ntrain: new\nin two lines.\n", "new\nin two lines."),
        ("10:00:00 ERROR the loss is NaN\n\ntrain: Training failed; what it said stands above.\n", "the loss is NaN"),
        ("nothing to read\n", None),
        ("\ntrain: old.\n\n---- 2026 train\nkilled\n", None),
    ],
)
def test_the_last_sentence_of_a_log_is_found(tmp_path: Path, text: str, expected: str | None) -> None:
    from console import last_sentence

    (tmp_path / "train.log").write_text(text)
    assert last_sentence(tmp_path / "train.log", "train") == expected
