"""Size of the page over many runs, the time to write it, and the time in which a browser opens it."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from petrflow.reports.page import write_report
from tests.browser.conftest import open_browser
from tests.helpers.results import metrics, write, write_run


def _figures(keyframes: int) -> dict[str, object]:
    """Return a viewer's ``figures.json`` of ten classes."""
    names = [f"class-{k}" for k in range(10)]
    grid = np.linspace(0, 1, 60)
    return {
        "title": {"en": "after training", "zh": "训练后"},
        "threshold": 0.3,
        "distance": 2.0,
        "classes": names,
        "frames": [
            {"scene": f"scene-{k // 40:04d}", "number": k % 40, "found": k, "missed": 3, "false": 2, "f1": 0.5}
            for k in range(keyframes)
        ],
        "recall_curves": [
            {"class": name, "recall": round(x, 4), "precision": round(1 - x / 2, 4), "score": round(1 - x, 4)}
            for name in names
            for x in grid
        ],
        "scores": [{"score": f"{k / 20:.2f}", "which": w, "count": k} for w in ("right", "false") for k in range(20)],
        "sizes": [{"name": f"{k} m²", "value": 0.5, "which": w} for w in ("before", "after") for k in range(5)],
        "confusion": [{"true": a, "found": b, "count": 3, "share": 0.1} for a in names for b in names],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--keyframes", type=int, default=81)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        results = Path(place) / "results"
        noise = np.random.default_rng(0).integers(0, 255, (90, 160, 3), dtype=np.uint8)
        picture = cv2.resize(noise, (2400, 900), interpolation=cv2.INTER_CUBIC)
        for k in range(arguments.runs):
            folder = write_run(
                results / f"run-{k}", metrics(0.1, 10), metrics(0.2, 10, seed=k), epochs=100, restarts=(300, 900)
            )
            write(folder / "viewer" / "figures.json", _figures(arguments.keyframes))
            (folder / "demo" / "frames").mkdir(parents=True)
            for number in range(arguments.keyframes):
                cv2.imwrite(str(folder / "demo" / "frames" / f"{number:04d}.jpg"), picture)
        out = results / "report" / "index.html"
        begin = time.perf_counter()
        write_report(results, {}, out)
        written = time.perf_counter() - begin
        opened, drawn = [], []
        with open_browser(Path(place) / "profile") as browser:
            for _ in range(arguments.repeats):
                browser.open(out)
                timing = browser.run("return performance.getEntriesByType('navigation')[0].toJSON()")
                opened.append(timing["loadEventEnd"] / 1e3)
                begin = time.perf_counter()
                count = browser.run(
                    "dispatchEvent(new Event('beforeprint')); return document.querySelectorAll('svg').length"
                )
                drawn.append(time.perf_counter() - begin)
        size = out.stat().st_size
    figures = {
        "runs": arguments.runs,
        "keyframes": arguments.keyframes,
        "bytes": size,
        "write_seconds": round(written, 2),
        "open_seconds": round(float(np.median(opened)), 2),
        "all_charts_seconds": round(float(np.median(drawn)), 2),
        "charts": count,
    }
    print(
        f"page of {arguments.runs} runs x {arguments.keyframes} keyframes: {size / 1e6:.1f} MB, written in {written:.1f} s"
    )
    print(
        f"opened in {figures['open_seconds']} s (median of {arguments.repeats}); all {count} charts in {figures['all_charts_seconds']} s"
    )
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
