"""How fast a data set comes in: download, unpack, verify, and weights read without trust, each against the plain tool.

    python benchmarks/fetch.py [--megabytes 400] [--files 12000] [--folder DIR]

The server, the client and the disk are one machine's, so these are upper bounds on a network and lower bounds on a loaded host.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import http.server
import io
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from petrflow.fetch.archive import extract
from petrflow.fetch.download import fetch
from petrflow.pictures.read import file_fault
from petrflow.weights.pdparams import load_pdparams, save_pdparams


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_arguments: object) -> None:
        pass


def timed(work: Callable[[], object]) -> float:
    """Seconds of wall time."""
    os.sync()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def make_archive(path: Path, files: int, size: int) -> int:
    """Write an archive of incompressible files that begin and end as JPEGs do; returns its bytes unpacked."""
    body = random.Random(0).randbytes(size)
    with gzip.open(path, "wb", compresslevel=1) as stream, tarfile.open(fileobj=stream, mode="w|") as tar:
        for number in range(files):
            info = tarfile.TarInfo(f"samples/CAM_{number % 6}/{number:06d}.jpg")
            info.size = size
            tar.addfile(info, io.BytesIO(b"\xff\xd8\xff" + number.to_bytes(5, "big") + body[8:-2] + b"\xff\xd9"))
    return files * size


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=400)
    parser.add_argument("--files", type=int, default=12_000)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    figures: dict[str, float] = {}
    try:
        size = options.megabytes * 10**6 // options.files
        unpacked = make_archive(folder / "a.tgz", options.files, size)
        packed = (folder / "a.tgz").stat().st_size
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/a.tgz"
        figures["download_MBps"] = packed / 1e6 / timed(lambda: fetch(url, folder / "got" / "a.tgz", progress=False))
        if shutil.which("curl"):
            figures["curl_MBps"] = (
                packed / 1e6 / timed(lambda: subprocess.run(["curl", "-s", "-o", folder / "c.tgz", url], check=True))
            )
        server.shutdown()
        figures["extract_MBps"] = (
            unpacked / 1e6 / timed(lambda: extract(folder / "a.tgz", folder / "ours", progress=False))
        )
        (folder / "tar").mkdir()
        figures["tar_MBps"] = (
            unpacked
            / 1e6
            / timed(lambda: subprocess.run(["tar", "-xzf", folder / "a.tgz", "-C", folder / "tar"], check=True))
        )
        paths = sorted((folder / "ours").rglob("*.jpg"))
        figures["verify_files_per_s"] = len(paths) / timed(lambda: [file_fault(path) for path in paths])
        draw = np.random.default_rng(0)
        weights = {
            f"layer{i}.weight": draw.random(93_000, dtype=np.float32) for i in range(915)
        }  # as many as the published model
        figures["save_pdparams_s"] = timed(lambda: save_pdparams(folder / "w.pdparams", weights))
        figures["load_pdparams_s"] = timed(lambda: load_pdparams(folder / "w.pdparams"))
        figures["pickle_load_s"] = timed(lambda: pickle.loads((folder / "w.pdparams").read_bytes()))
    finally:
        shutil.rmtree(folder)
    for name, value in figures.items():
        print(f"{name:<22} {value:12,.2f}")
    print(
        json.dumps(
            {
                "benchmark": "fetch",
                "megabytes": options.megabytes,
                "files": options.files,
                **{k: round(v, 3) for k, v in figures.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
