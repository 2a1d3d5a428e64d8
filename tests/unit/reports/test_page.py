"""The report shows the figures that the runs left, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from petrflow.errors import PetrflowError
from petrflow.reports.page import write_report
from tests.helpers.results import metrics, provenance, write, write_run

CONFIG = {"runs": {"run": {"dataset": "d", "model": "m", "schedule": {"epochs": 3}}}}


def _page(results: Path, config: dict[str, object] = CONFIG) -> str:
    write_report(results, config, results / "report" / "index.html")
    return (results / "report" / "index.html").read_text()


def _cell(page: str, **data: str) -> str:
    attributes = " ".join(f'data-{key}="{value}"' for key, value in data.items())
    found = re.search(rf"<td {attributes}[^>]*>(.*?)</td>", page, re.DOTALL)
    assert found, attributes
    return found[1].strip()


def test_the_page_shows_metrics_before_and_after_and_what_it_cost(tmp_path: Path) -> None:
    write_run(tmp_path / "a<b", metrics(0.1234), metrics(0.2345))
    page = _page(tmp_path, {"runs": {"a<b": CONFIG["runs"]["run"]}, "price_per_hour": 36})
    assert _cell(page, run="a&lt;b", metric="mAP", which="before") == "0.1234"
    assert _cell(page, run="a&lt;b", metric="mAP", which="after") == "0.2345"
    for text in ("+0.1111", "schedule.epochs", "petrflow 9.9.9", "Linux-test", "345.6 MB", "1:40", "1.00"):
        assert text in page
    assert "a<b" not in page


def test_a_change_is_coloured_where_the_scenes_say_that_it_is_more_than_noise(tmp_path: Path) -> None:
    write_run(tmp_path / "up", metrics(0.1, 10), metrics(0.3, 10, seed=1))
    write_run(tmp_path / "even", metrics(0.1, 10), metrics(0.1001, 10, seed=1))
    write_run(tmp_path / "down", metrics(0.3, 10), metrics(0.1, 10, seed=1))
    write_run(tmp_path / "few", metrics(0.1, 2), metrics(0.3, 2, seed=1))
    page = _page(tmp_path, {})
    kinds = dict(re.findall(r'<section class="run" id="(\w+)">.*?<p class="verdict (\w+)">', page, re.DOTALL))
    assert kinds == {"up": "good", "even": "even", "down": "bad", "few": "even"}
    assert "The 2 scenes of the split are too few" in page and "只有 2 个场景" in page
    (table,) = re.findall(r'<table class="metrics">.*?</table>', page.split('id="few"')[1], re.DOTALL)[:1]
    assert '<span class="grey">+0.2000</span>' in table


def test_whatever_a_stage_has_not_left_is_named_and_nothing_fails(tmp_path: Path) -> None:
    write_run(tmp_path / "run", metrics(0.2), None)
    page = _page(tmp_path)
    assert "Only the figures before training are there" in page and "Not there yet: train, export, demo." in page
    (tmp_path / "nothing").mkdir()
    assert "No figures yet." in _page(tmp_path, {"runs": {"nothing": {}}})


def test_a_file_that_cannot_be_read_is_said_and_the_rest_stands(tmp_path: Path) -> None:
    write_run(tmp_path / "run", metrics(0.2), metrics(0.3))
    (tmp_path / "run" / "train" / "metrics.json").write_text("{")
    (tmp_path / "run" / "train" / "history.csv").write_text("")
    page = _page(tmp_path)
    assert (
        "train/metrics.json" in page
        and "train/history.csv" in page
        and _cell(page, run="run", metric="mAP", which="before") == "0.2000"
    )


def test_a_failed_run_stands_there_with_its_sentence(tmp_path: Path) -> None:
    write(
        tmp_path / "run" / "status.json",
        {"state": "failed", "stage": "train", "sentence": "No space on <disk>.", "log": "logs/x.log"},
    )
    page = _page(tmp_path)
    assert "train failed: No space on &lt;disk&gt;." in page and "logs/x.log" in page


def test_a_failure_that_the_workflow_notes_is_the_verdict_and_other_notes_stand_below(tmp_path: Path) -> None:
    write_run(tmp_path / "run", metrics(0.2), metrics(0.3))
    notes = {"run": ["export failed: The model <cannot> be written.", "train was made with batch_size 4"]}
    write_report(tmp_path, CONFIG, tmp_path / "report" / "index.html", notes)
    page = (tmp_path / "report" / "index.html").read_text()
    assert "export failed: The model &lt;cannot&gt; be written." in page and "logs/run/export.log" in page
    assert (
        "train was made with batch_size 4" in page and _cell(page, run="run", metric="mAP", which="after") == "0.3000"
    )


def test_errors_without_ground_truth_are_called_not_available(tmp_path: Path) -> None:
    figures = metrics(0.1, not_available=("mAVE", "mAAE"))
    write_run(tmp_path / "run", figures, figures)
    page = _page(tmp_path)
    assert "no labels" in _cell(page, run="run", metric="mAVE", which="after") and "NDS_available_terms" in page


def test_the_baseline_is_step_0_and_an_interruption_is_marked_on_the_axis(tmp_path: Path) -> None:
    write_run(tmp_path / "run", metrics(0.1), metrics(0.3), restarts=(50,))
    page = _page(tmp_path)
    specs = [json.loads(text) for text in re.findall(r'<script type="application/json">(.*?)</script>', page)]
    (curve,) = [spec for spec in specs if spec["title"]["text"]["en"].startswith("NDS and mAP")]
    nds = [row for row in curve["data"]["values"] if row["series"] == "NDS"]
    assert nds[0] == {"step": 0, "value": 0.2, "series": "NDS"} and nds[1]["step"] == 40
    assert [row["step"] for row in curve["layer"][1]["data"]["values"]] == [50]
    assert "killed" in page


def test_earlier_settings_of_a_run_stay_as_entries(tmp_path: Path) -> None:
    for rate, figure in ((0.1, 0.25), (0.2, 0.35)):
        folder = tmp_path / "run"
        if not folder.exists():
            write_run(folder, metrics(0.1), metrics(figure))
        write(folder / "train" / "metrics.json", {"best": metrics(figure)})
        write(folder / "train" / "provenance.json", provenance(1.0, learning_rate=rate))
        page = _page(tmp_path, {"runs": {"run": {"schedule": {"learning_rate": rate}}}})
    assert page.count('<tr class="earlier">\n<td>run') == 1 and "0.2500" in page and "0.3500" in page
    assert "<th>schedule.learning_rate</th>" in page


def test_neither_a_run_in_the_config_nor_one_on_disk_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(PetrflowError, match="names no runs"):
        write_report(tmp_path, {}, tmp_path / "report" / "index.html")
