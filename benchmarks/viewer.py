"""Size of a viewer of mini's size, the time in which a browser opens it, and the frames per second at which it scrubs."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from petrflow.annotations import AnnotationStore, build
from petrflow.evaluation.protocol import NUSCENES
from petrflow.reports.viewer import run_sets, write_viewer
from petrflow.sources import synthetic
from tests.browser.conftest import Browser, open_browser
from tests.helpers.found import near_truth, write_found

# Every frame once, in order, the next one as soon as the last one is on the screen.
SCRUB = """
const done = arguments[arguments.length - 1], total = arguments[0], begin = performance.now();
let number = 0;
function next() {
  if (petrflow.seen.shown === `${petrflow.state.scene}/${number}`) {
    number += 1;
    if (number >= total) return done((performance.now() - begin) / 1000);
    petrflow.go(number);
  }
  requestAnimationFrame(next);
}
petrflow.go(0);
requestAnimationFrame(next);
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=10)
    parser.add_argument("--keyframes", type=int, default=40, help="of a scene; nuScenes' have 40")
    parser.add_argument("--false", type=int, default=70, help="false boxes a keyframe, in each of two sets")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        root, run = folder / "data", folder / "results" / "run"
        settings = {
            "scenes": arguments.scenes + 1,
            "keyframes": arguments.keyframes,
            "image_size": [160, 90],
            "sweeps": 0,
            "seed": 0,
        }
        synthetic.generate(root, settings, progress=True)
        build(root, "train", folder / "train.arrow", progress=False)
        _large_pictures(root)
        store = AnnotationStore.open(folder / "train.arrow")
        names = list(NUSCENES.class_names)
        for seed, stage in enumerate(("baseline", "train")):
            found = near_truth(store, names, seed, false=arguments.false)
            write_found(run / stage / "results_nusc.json", store, found, names)
        begin = time.perf_counter()
        write_viewer(folder / "train.arrow", root, run_sets(run, "made"), run / "viewer", class_names=names)
        written = time.perf_counter() - begin
        size = sum(path.stat().st_size for path in (run / "viewer").rglob("*") if path.is_file())
        with open_browser(folder / "profile") as browser:
            opened, first, ready, again, cpu = [], [], [], [], []
            for _ in range(arguments.repeats):
                opened.append(_open(browser, run / "viewer" / "index.html"))
                count = browser.run("return Number(document.querySelector('#frame').max)")
                first.append(count / browser.driver.execute_async_script(SCRUB, count))
                begin = time.perf_counter()
                browser.wait(f"return petrflow.seen.small >= {count * len(store.camera_names)}", 120)
                ready.append(time.perf_counter() - begin)
                before = _cpu_seconds(browser)
                again.append(count / browser.driver.execute_async_script(SCRUB, count))
                cpu.append((_cpu_seconds(browser) - before) / count)
    figures = {
        "scenes": arguments.scenes,
        "keyframes": len(store),
        "bytes": size,
        "write_seconds": round(written, 2),
        "open_seconds": round(float(np.median(opened)), 2),
        "cpu_ms_per_frame": round(1e3 * float(np.median(cpu)), 1),
        "seconds_until_ready": round(float(np.median(ready)), 1),
        "frames_per_second_first": round(float(np.median(first)), 1),
        "frames_per_second_again": round(float(np.median(again)), 1),
    }
    print(
        f"viewer of {arguments.scenes} scenes, {len(store)} keyframes x {len(store.camera_names)} pictures of 1600x900"
    )
    print(
        f"{size / 1e6:.1f} MB beside the pictures, written in {written:.1f} s; first frame on the screen after {figures['open_seconds']} s"
    )
    print(
        f"scrubbing a scene: {figures['frames_per_second_first']} frames/s at once, {figures['frames_per_second_again']} when its "
        f"pictures are ready {figures['seconds_until_ready']} s later, at {figures['cpu_ms_per_frame']} ms of CPU a frame"
    )
    print(json.dumps(figures))


def _cpu_seconds(browser: Browser) -> float:
    """Return the CPU seconds of all of the browser's processes: on a busy machine they say more than the clock."""
    processes = psutil.Process(browser.driver.service.process.pid).children(recursive=True)
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def _open(browser: Browser, page: Path) -> float:
    """Return the seconds until the first frame is on the screen."""
    browser.open(page, width=1280, height=800)
    browser.wait("return petrflow.seen.shown !== undefined")
    return float(browser.run("return petrflow.seen.first / 1000"))


def _large_pictures(root: Path) -> None:
    """Replace the small pictures by ones of nuScenes' size and about its weight; the boxes are drawn on them in proportion."""
    noise = np.random.default_rng(0).integers(0, 255, (45, 80, 3), dtype=np.uint8)
    for path in (root / "samples").glob("CAM_*/*.jpg"):
        small = cv2.imread(str(path))
        picture = cv2.resize(small, (1600, 900), interpolation=cv2.INTER_CUBIC)
        picture = cv2.addWeighted(picture, 0.95, cv2.resize(noise, (1600, 900), interpolation=cv2.INTER_CUBIC), 0.05, 0)
        cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_QUALITY, 85])


if __name__ == "__main__":
    main()
