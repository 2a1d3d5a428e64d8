"""The report shows the figures that the runs left, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from petrflow.errors import PetrflowError
from petrflow.reports.page import write_report

ERRORS = {"mATE": 0.5, "mASE": 0.4, "mAOE": 0.3, "mAVE": 1.0, "mAAE": 0.2}


def _metrics(mean_ap: float, not_available: list[str] | None = None) -> dict[str, Any]:
    row = {"AP": mean_ap, "ATE": 0.5, "ASE": 0.4, "AOE": 0.3, "AVE": None, "AAE": None}
    return {
        "mAP": mean_ap,
        "NDS": mean_ap + 0.1,
        "NDS_available_terms": mean_ap + 0.2,
        **ERRORS,
        "not_available": not_available or [],
        "per_class": {"car": row, "bus": row},
        "ground_truth": {"car": 3},
    }


def _run(folder: Path, before: dict[str, Any], after: dict[str, Any]) -> Path:
    for stage, metrics in (("baseline", before), ("train", after)):
        (folder / stage).mkdir(parents=True)
        (folder / stage / "metrics.json").write_text(json.dumps({"best": metrics} if stage == "train" else metrics))
    history = pd.DataFrame({"epoch": [1, 2], "step": [10, 20], "total_loss": [3.0, 2.0], "NDS": [None, 0.4]})
    history.to_csv(folder / "train" / "history.csv", index=False)
    (folder / "benchmarks").mkdir()
    (folder / "benchmarks" / "train.tsv").write_text("s\th:m:s\tmax_rss\n12.5\t0:00:12\t345.6\n")
    return folder


def test_the_page_shows_metrics_before_and_after_and_what_it_cost(tmp_path: Path) -> None:
    folder = _run(tmp_path / "a<b", _metrics(0.1234), _metrics(0.2345))
    write_report(
        {"a<b": folder}, tmp_path / "index.html", {"a<b": {"dataset": "d", "model": "m", "schedule": {"epochs": 3}}}
    )
    page = (tmp_path / "index.html").read_text()
    for text in ("0.1234", "0.2345", '<span class="better">+0.1111</span>', "epochs 3", "12.5", "346", "a&lt;b"):
        assert text in page
    assert "a<b" not in page
    assert page.count("data:image/png;base64,") == 2


def test_the_same_runs_give_the_same_bytes(tmp_path: Path) -> None:
    folder = _run(tmp_path / "run", _metrics(0.1), _metrics(0.2))
    for name in ("one.html", "two.html"):
        write_report({"run": folder}, tmp_path / name)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_errors_without_ground_truth_are_called_not_available(tmp_path: Path) -> None:
    metrics = _metrics(0.1, ["mAVE", "mAAE"])
    folder = _run(tmp_path / "run", metrics, metrics)
    write_report({"run": folder}, tmp_path / "index.html")
    page = (tmp_path / "index.html").read_text()
    assert page.count("<td>not available</td>") == 4 and "NDS_available_terms" in page


def test_a_run_that_has_not_been_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(PetrflowError, match="nowhere"):
        write_report({"run": tmp_path / "nowhere"}, tmp_path / "index.html")
