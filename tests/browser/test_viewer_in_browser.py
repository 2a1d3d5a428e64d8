"""The viewer in a browser: no network, no complaint, and its controls change what they should."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from petrflow.annotations import AnnotationStore
from petrflow.evaluation.protocol import NUSCENES
from petrflow.reports.viewer import run_sets, write_viewer
from tests.browser.conftest import Browser
from tests.helpers.found import near_truth, write_found

NAMES = list(NUSCENES.class_names)
SHOWN = "return petrflow.seen.shown === arguments[0]"


@pytest.fixture(scope="module")
def run(synthetic_root: Path, synthetic_stores: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    store = AnnotationStore.open(synthetic_stores["train"])
    for seed, stage in enumerate(("baseline", "train")):
        write_found(
            folder / stage / "results_nusc.json", store, near_truth(store, NAMES, seed, 0.5 + 0.3 * seed), NAMES
        )
    doctor = folder / "doctor.json"
    doctor.write_text(json.dumps({"findings": [{"sentence": "Yaws are turned."}]}))
    write_viewer(
        synthetic_stores["train"],
        synthetic_root,
        run_sets(folder, "made"),
        folder / "viewer",
        class_names=NAMES,
        findings=doctor,
    )
    return folder


def _open(browser: Browser, folder: Path, fragment: str = "", language: str = "en", width: int = 1280) -> None:
    browser.open(folder / "viewer" / "index.html", language, width, fragment=fragment)
    browser.wait("return petrflow.seen.shown !== undefined")


def _legend(browser: Browser) -> dict[str, int]:
    rows = browser.run(
        "return new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done("
        "Array.from(document.querySelectorAll('#legend div'), row => [row.dataset.kind, row.querySelector('b').textContent])))))"
    )
    return {kind: int(count) for kind, count in rows}


def _move(browser: Browser, selector: str, value: float) -> None:
    browser.run(
        "const input = document.querySelector(arguments[0]); input.value = arguments[1]; input.dispatchEvent(new Event('input'))",
        selector,
        value,
    )


def _press(browser: Browser, key: str) -> None:
    browser.run("document.dispatchEvent(new KeyboardEvent('keydown', { key: arguments[0], bubbles: true }))", key)


def test_the_first_frame_counts_what_the_page_says(browser: Browser, run: Path) -> None:
    _open(browser, run)
    counts = json.loads((run / "viewer" / "figures.json").read_text())["frames"][0]
    legend = _legend(browser)
    assert (legend["found"], legend["missed"], legend["false"]) == (counts["found"], counts["missed"], counts["false"])
    assert legend["right"] == legend["found"]
    assert "Yaws are turned." in browser.shows("#findings")
    browser.require_quiet()


def test_score_and_classes_change_what_is_drawn(browser: Browser, run: Path) -> None:
    _open(browser, run)
    before = _legend(browser)
    _move(browser, "#score", 1)
    after = _legend(browser)
    assert after["right"] == after["false"] == after["found"] == 0
    assert after["missed"] == before["found"] + before["missed"]
    _move(browser, "#score", 0.3)
    assert _legend(browser) == before
    browser.click("#none")
    assert sum(_legend(browser).values()) == 0
    browser.click('#classes input[data-class="car"]')
    kept = browser.run("return petrflow.items().map(item => item.box[9])")
    assert kept and set(kept) == {NAMES.index("car")}
    browser.require_quiet()


def test_pixels_of_a_box_change_with_the_score(browser: Browser, run: Path) -> None:
    _open(browser, run)
    sums = []
    for score in (0.3, 1.0):
        _move(browser, "#score", score)
        _legend(browser)
        sums.append(browser.driver.get_screenshot_as_base64())
    assert sums[0] != sums[1]


def test_before_is_compared_with_after(browser: Browser, run: Path) -> None:
    _open(browser, run)
    alone = _legend(browser)
    _press(browser, "c")
    both = _legend(browser)
    assert both["both"] + both["gained"] == alone["found"] and both["lost"] + both["neither"] == alone["missed"]
    assert both["gained"] > 0 and both["false_second"] == alone["false"]
    assert "found only by: before training" in browser.shows("#legend")
    _press(browser, "1")
    _press(browser, "c")
    assert browser.run("return petrflow.state.set") == 0


def test_keys_move_and_a_link_leads_back_to_the_frame(browser: Browser, run: Path) -> None:
    _open(browser, run)
    scenes = browser.run("return Array.from(document.querySelectorAll('#scene option'), one => one.text)")
    _press(browser, "ArrowRight")
    browser.wait("return petrflow.seen.shown === '0/1'")
    _press(browser, "ArrowDown")
    browser.wait("return petrflow.seen.shown === '1/0'")
    _press(browser, "End")
    _press(browser, "+")
    browser.wait("return location.hash.includes('frame=4') && location.hash.includes('score=0.35')")
    link = browser.run("return location.hash")
    assert f"scene={scenes[1]}" in link
    _open(browser, run, link)
    assert browser.run("return [petrflow.state.scene, petrflow.state.frame, petrflow.state.score]") == [1, 3, 0.35]
    _press(browser, " ")
    assert browser.run("return petrflow.state.playing")
    _press(browser, " ")
    browser.require_quiet()


def test_a_click_on_a_box_gives_its_numbers_and_its_error(browser: Browser, run: Path) -> None:
    _open(browser, run)
    _press(browser, "t")  # labelled boxes away: what is under the click is a detection
    _legend(browser)
    browser.run(
        "const canvas = petrflow.plan.canvas, ratio = canvas.width / canvas.clientWidth, place = canvas.getBoundingClientRect();"
        "const b = petrflow.plan.hits.find(hit => hit.item.kind === 'right').bounds;"
        "canvas.dispatchEvent(new MouseEvent('click', { bubbles: true, clientX: place.left + (b[0] + b[2]) / 2 / ratio,"
        "clientY: place.top + (b[1] + b[3]) / 2 / ratio }))"
    )
    browser.wait("return document.querySelector('#picked h2') !== null")
    picked = browser.run("return petrflow.state.picked")
    box, truth = browser.run(
        "const item = petrflow.items().find(one => one.number === arguments[0] && !one.truth); return [item.box, item.box[11]]",
        picked["number"],
    )
    text = browser.shows("#picked")
    assert f"{box[10]:.3f}" in text and f"{NAMES[box[9]]}: detection" in text
    if truth >= 0:
        assert "Error against its partner" in text and "1 − IoU" in text
    browser.require_quiet()


@pytest.mark.parametrize(
    ("width", "language", "word"), [(390, "zh-CN", "漏检"), (1280, "en", "missed"), (1920, "zh-CN", "漏检")]
)
def test_it_reads_in_both_languages_and_at_three_widths(
    browser: Browser, run: Path, width: int, language: str, word: str
) -> None:
    _open(browser, run, language=language, width=width)
    assert word in browser.shows("#legend") and browser.overflow() == 0
    assert browser.run(
        "return Array.from(document.querySelectorAll('.view canvas'), one => one.clientWidth).every(w => w > 100)"
    )
    browser.require_quiet()


def test_without_its_pictures_it_draws_the_boxes_and_says_so(browser: Browser, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "viewer", tmp_path / "far" / "away" / "viewer")
    _open(browser, tmp_path / "far" / "away")
    assert "Pictures are missing" in browser.wait("return document.querySelector('#notice').innerText")
    assert sum(_legend(browser).values()) > 0
    assert all("ERR_FILE_NOT_FOUND" in line for line in browser.complaints())


def test_pictures_kept_small_for_scrubbing_look_as_the_files_do(browser: Browser, run: Path) -> None:
    _open(browser, run)
    looks = []
    browser.wait("return petrflow.seen.small >= 24")  # four frames of six cameras
    for _ in range(2):
        browser.wait(f"return document.querySelectorAll('.view img').length === {0 if looks else 6}")
        looks.append(
            np.asarray(Image.open(io.BytesIO(browser.driver.get_screenshot_as_png())).convert("RGB"), dtype=np.float64)
        )
        _press(browser, "ArrowRight")
        _press(browser, "ArrowLeft")
    assert np.abs(looks[0] - looks[1]).mean() < 2.0
    browser.require_quiet()
