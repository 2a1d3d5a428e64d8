"""The page in a browser: no network, no complaint, the figures of metrics.json, two languages, three widths."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from petrflow.reports.page import write_report
from tests.browser.conftest import Browser
from tests.helpers.results import metrics, write, write_run

RUNS = ("first", "second")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("page") / "results"
    for k, name in enumerate(RUNS):
        write_run(results / name, metrics(0.1234567, 8), metrics(0.2 + k / 10, 8, seed=k + 1), restarts=(50,))
    write(
        results / "broken" / "status.json",
        {"state": "failed", "stage": "train", "sentence": "The disk is full.", "stages": {"train": {}}},
    )
    config = {"runs": {name: {"model": "m", "schedule": {"batch_size": 4 + k}} for k, name in enumerate(RUNS)}}
    write_report(results, config, results / "report" / "index.html")
    return results / "report" / "index.html"


def test_every_figure_equals_metrics_json(browser: Browser, page: Path) -> None:
    browser.open(page)
    for name in RUNS:
        before = json.loads((page.parent.parent / name / "baseline" / "metrics.json").read_text())
        after = json.loads((page.parent.parent / name / "train" / "metrics.json").read_text())["best"]
        for which, figures in (("before", before), ("after", after)):
            for metric in ("mAP", "NDS", "mATE", "mASE", "mAOE", "mAVE", "mAAE"):
                cells = browser.run(
                    "return Array.from(document.querySelectorAll(arguments[0]), cell => cell.innerText)",
                    f'td[data-run="{name}"][data-metric="{metric}"][data-which="{which}"]',
                )
                assert len(cells) == (2 if metric in ("mAP", "NDS") else 1)
                assert set(cells) == {f"{figures[metric]:.4f}"}
            for label, row in figures["per_class"].items():
                assert (
                    browser.shows(f'td[data-run="{name}"][data-class="{label}"][data-which="{which}"]')
                    == f"{row['AP']:.4f}"
                )


@pytest.mark.parametrize(
    ("width", "language", "heading"),
    [(390, "zh-CN", "全部运行"), (1280, "en-GB", "All runs"), (1920, "zh-CN", "全部运行")],
)
def test_it_reads_in_both_languages_and_at_three_widths(
    browser: Browser, page: Path, width: int, language: str, heading: str
) -> None:
    browser.open(page, language, width)
    assert browser.shows("#runs") == heading
    count = browser.run("return document.querySelectorAll('figure.chart').length")
    assert count >= 10
    for number in range(count):
        browser.run("document.querySelectorAll('figure.chart')[arguments[0]].scrollIntoView()", number)
        browser.wait(f"return document.querySelectorAll('figure.chart')[{number}].querySelector('svg') !== null")
    words = browser.run("return Array.from(document.querySelectorAll('svg text'), text => text.textContent).join(' ')")
    assert ("训练损失" in words) == (language == "zh-CN") and ("Training loss" in words) == (language == "en-GB")
    assert browser.overflow() == 0
    browser.require_quiet()


def test_the_switch_changes_every_text_and_the_charts_in_sight(browser: Browser, page: Path) -> None:
    browser.open(page, "zh-CN")
    assert browser.run("return document.documentElement.lang") == "zh-CN"
    browser.click('[data-set-language="en"]')
    assert browser.shows("#runs") == "All runs" and browser.run("return document.documentElement.lang") == "en"
    browser.run("document.querySelector('figure.chart').scrollIntoView()")
    browser.wait("return document.querySelector('figure.chart svg')?.textContent.includes('before training')")
    browser.click('[data-set-language="zh"]')
    browser.wait("return document.querySelector('figure.chart svg')?.textContent.includes('训练前')")
    browser.run("localStorage.clear()")
    browser.require_quiet()


def test_a_click_on_a_heading_sorts_and_cells_without_a_figure_stay_last(browser: Browser, page: Path) -> None:
    browser.open(page)
    column = browser.run(
        "return Array.from(document.querySelectorAll('#comparison thead th'), th => th.innerText.trim()).indexOf('NDS after')"
    )
    first = "return Array.from(document.querySelectorAll('#comparison tbody tr'), row => row.cells[0].innerText.trim())"
    head = f"#comparison thead th:nth-child({column + 1})"
    browser.click(head)
    assert browser.run(first) == ["second", "first", "broken"]
    browser.click(head)
    assert browser.run(first) == ["first", "second", "broken"]


def test_failed_runs_and_differing_settings_stand_at_the_top(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert "The disk is full." in browser.shows(".verdicts .failed")
    heads = browser.shows("#comparison thead")
    assert (
        "schedule.batch_size" in heads and "model" in heads
    )  # the failed run, which the config does not name, has none
