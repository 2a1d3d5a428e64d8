"""How long annotations take, from tables of any size without images, against the record-by-record
computation.

    python benchmarks/annotate.py --scenes 10 40 160 850
    python benchmarks/annotate.py --scenes 85 850 8500 --rounds 1     # a fleet: 27 GB of tables, 45 GB of disk

For every size: tables are written, ``petrflow.annotations.build_all`` makes both splits' stores in
a process of its own, and turn by turn with it stock Paddle3D's own per-record code (the reference)
computes keyframes of the first scenes, as does the lean devkit-and-pyquaternion computation of the
tests. The stores are compared with both, opened, read at random, and read by eight processes at
once. A table for people comes first; the last line is JSON. A size for which the disk has no room
is left out, with the larger ones.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

VERSION = "v1.0-trainval"
COMMON_SCENES = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--scenes", type=int, nargs="+", default=[10], help="sizes to measure; 10 is mini's, 850 trainval's"
    )
    parser.add_argument("--rounds", type=int, default=3, help="turns of ours and of the reference; the median counts")
    parser.add_argument(
        "--reference-keyframes", type=int, default=20, help="keyframes that the reference computes in a turn"
    )
    parser.add_argument("--folder", type=Path, help="where to make the tables (default: a temporary folder)")
    parser.add_argument("--build", type=Path, nargs=2, metavar=("ROOT", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build:
        build(*options.build)
        return
    folder = options.folder or Path(tempfile.mkdtemp(prefix="petrflow-annotate-"))
    try:
        sizes = [scenes for scenes in sorted(options.scenes) if has_room(folder, scenes)]
        results = [measure(folder, scenes, options.rounds, options.reference_keyframes) for scenes in sizes]
    finally:
        if options.folder is None:
            shutil.rmtree(folder)
    first = results[0]
    names = (
        "scenes",
        "keyframes",
        "tables MB",
        "seconds",
        "CPU s",
        "ms a keyframe",
        "relative",
        "peak RSS MB",
        "to stock",
        "to the tests'",
    )
    print("\n| " + " | ".join(names) + " |\n" + "|---" * len(names) + "|")
    for r in results:
        relative = r["seconds"] / first["seconds"]
        print(
            f"| {r['scenes']} | {r['keyframes']} | {r['table_mb']:.0f} | {r['seconds']:.2f} | {r['cpu_seconds']:.2f} "
            f"| {1e3 * r['seconds'] / r['keyframes']:.2f} | {relative:.1f}x | {r['rss_mb']:.0f} | {r['ratio']:.0f} | {r['lean_ratio']:.0f} |"
        )
    keys = ("scenes", "keyframes", "seconds", "cpu_seconds", "rss_mb", "reference_seconds_per_keyframe", "ratio")
    curve = [[r["scenes"], r["seconds"], r["cpu_seconds"], r["rss_mb"], r["open_ms"]] for r in results]
    print(json.dumps({**{key: results[-1][key] for key in keys}, "curve": curve}))


def has_room(folder: Path, scenes: int) -> bool:
    """Say whether the disk holds tables of a size, and beside them what joining them needs and
    their stores.
    """
    from nuscenes_tables import SCENE_BYTES

    folder.mkdir(parents=True, exist_ok=True)
    if (folder / f"scenes-{scenes}" / ".complete.json").exists():
        return True
    needed, free = 1.7 * SCENE_BYTES * scenes, shutil.disk_usage(folder).free
    if needed > free:
        print(
            f"{scenes} scenes need {needed / 1e9:.0f} GB under {folder}, which has {free / 1e9:.0f} free",
            file=sys.stderr,
        )
    return needed <= free


def build(root: Path, out: Path) -> None:
    """Build both stores and print what this process used."""
    from petrflow.annotations import build_all

    build_all(root, {split: out / f"{split}.arrow" for split in ("train", "val")}, progress=False)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"cpu_seconds": usage.ru_utime + usage.ru_stime, "rss_mb": peak_mb()}))


def peak_mb() -> float:
    """Peak RSS of this process in MB; unlike ru_maxrss it does not start with that of the process
    that started it.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure(folder: Path, scenes: int, rounds: int, reference_keyframes: int) -> dict[str, Any]:
    from annotation_reference import reference_keyframe, stock_infos, touch_lidar_files
    from nuscenes import NuScenes

    root, common = tables_of(folder, scenes), tables_of(folder, min(scenes, COMMON_SCENES))
    nusc = NuScenes(VERSION, str(common), verbose=False)
    touch_lidar_files(nusc)
    tokens = [sample["token"] for sample in nusc.sample]
    chosen = np.random.default_rng(0).permutation(len(tokens))
    ours, stock, lean = [], [], []
    stock_infos(nusc, tokens[:1])  # imports Paddle
    records: dict[str, Any] = {}
    infos: dict[str, Any] = {}
    for turn in range(rounds):
        some = [tokens[k] for k in np.roll(chosen, -turn * reference_keyframes)[:reference_keyframes]]
        ours.append(build_in_a_process(root, root))
        start = time.perf_counter()
        infos.update({info["token"]: info for info in stock_infos(nusc, some)})
        middle = time.perf_counter()
        records.update({token: reference_keyframe(nusc, token) for token in some})
        stock.append((middle - start) / len(some))
        lean.append((time.perf_counter() - middle) / len(some))
    keyframes, difference = compare(root, records, infos)
    print(f"{scenes} scenes: largest difference on {len(records)} keyframes {difference:.1e}", file=sys.stderr)
    opened = describe_store(root / "train.arrow")
    seconds = statistics.median(one["seconds"] for one in ours)
    reference = statistics.median(stock)
    return {
        "scenes": scenes,
        "keyframes": keyframes,
        "table_mb": sum(path.stat().st_size for path in (root / VERSION).glob("*.json")) / 1e6,
        "seconds": round(seconds, 3),
        "cpu_seconds": statistics.median(one["cpu_seconds"] for one in ours),
        "rss_mb": round(max(one["rss_mb"] for one in ours), 1),
        "open_ms": round(1e3 * opened, 1),
        "reference_seconds_per_keyframe": round(reference, 4),
        "ratio": round(reference * keyframes / seconds, 1),
        "lean_ratio": round(statistics.median(lean) * keyframes / seconds, 1),
    }


def tables_of(folder: Path, scenes: int) -> Path:
    from nuscenes_tables import write_tables

    root = folder / f"scenes-{scenes}"
    if not (root / ".complete.json").exists():
        print(f"writing tables of {scenes} scenes", file=sys.stderr)
        write_tables(root, scenes, version=VERSION)
    return root


def build_in_a_process(root: Path, out: Path) -> dict[str, float]:
    """Time a whole process, imports included."""
    start = time.perf_counter()
    command = [sys.executable, __file__, "--build", str(root), str(out)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, **json.loads(done.stdout.splitlines()[-1])}


def compare(root: Path, records: dict[str, Any], infos: dict[str, Any]) -> tuple[int, float]:
    """Keyframes in both stores, and the largest difference in poses and boxes from both per-record
    computations.
    """
    from petrflow.annotations import AnnotationStore

    keyframes, difference, found = 0, 0.0, 0
    for split in ("train", "val"):
        store = AnnotationStore.open(root / f"{split}.arrow")
        keyframes += len(store)
        for index in range(len(store)):
            if store.columns["keyframe.token"][index] not in records:
                continue
            keyframe, found = store[index], found + 1
            expected = records[keyframe.token]
            stock = infos[keyframe.token]
            pairs = [(keyframe.boxes, expected["boxes"]), (keyframe.velocities, expected["velocities"])]
            pairs += [(keyframe.boxes[:, :6], stock["gt_boxes"][:, :6]), (keyframe.velocities, stock["gt_velocity"])]
            pairs += [(-keyframe.boxes[:, 6] - np.pi / 2, stock["gt_boxes"][:, 6])]
            for k, views in [(-1, stock["cams"]), *enumerate(stock["sweeps"])]:
                placed = (keyframe if k < 0 else keyframe.sweep(k)).lidar_from_camera
                pairs += [
                    (placed[:, :3, :3], np.stack([views[name]["sensor2lidar_rotation"] for name in store.camera_names]))
                ]
                pairs += [
                    (
                        placed[:, :3, 3],
                        np.stack([views[name]["sensor2lidar_translation"] for name in store.camera_names]),
                    )
                ]
            for k, views in [(-1, expected["cameras"]), *enumerate(expected["sweeps"])]:
                frames = keyframe if k < 0 else keyframe.sweep(k)
                pairs += [
                    (
                        frames.lidar_from_camera,
                        np.stack([views[name]["lidar_from_camera"] for name in store.camera_names]),
                    )
                ]
            for actual, wanted in pairs:
                if wanted.size:
                    np.testing.assert_allclose(actual, wanted, atol=1e-6, rtol=0)
                    difference = max(difference, float(np.nanmax(np.abs(actual - wanted), initial=0.0)))
    if found != len(records):
        raise SystemExit(f"{len(records) - found} keyframes of the reference are in no store")
    return keyframes, difference


# ------------------------------------------------------------------------------------------------------------------ the store


def describe_store(path: Path, workers: int = 8) -> float:
    """Print what opening and reading a store costs, alone and shared; return the seconds to open
    it.
    """
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        alone = pool.apply(open_and_read, (path,))
    barrier = context.Barrier(workers)
    queue = context.Queue()
    processes = [context.Process(target=read_all, args=(path, barrier, queue)) for _ in range(workers)]
    for process in processes:
        process.start()
    shared = [queue.get() for _ in processes]
    for process in processes:
        process.join()
    print(
        f"store {path.stat().st_size / 1e6:.0f} MB: open {1e3 * alone['open']:.1f} ms, RSS then {alone['rss_mb']:.0f} MB; a keyframe "
        f"{1e6 * alone['keyframe']:.0f} us, a sweep {1e6 * alone['sweep']:.0f} us; {workers} processes that read all of it: RSS of the map "
        f"{sum(r for r, _ in shared) / 1e6:.0f} MB counted {workers} times, PSS {sum(p for _, p in shared) / 1e6:.0f} MB in all",
        file=sys.stderr,
    )
    return alone["open"]


def open_and_read(path: Path) -> dict[str, float]:
    from petrflow.annotations import AnnotationStore

    start = time.perf_counter()
    store = AnnotationStore.open(path)
    opened = time.perf_counter() - start
    rss = peak_mb()
    chosen = np.random.default_rng(0).integers(0, len(store), 2000).tolist()
    keyframes, sweeps = [], []
    for k in chosen:
        start = time.perf_counter()
        keyframe = store[k]
        middle = time.perf_counter()
        keyframes.append(middle - start)
        if keyframe.num_sweeps:
            keyframe.sweep(keyframe.num_sweeps // 2)
            sweeps.append(time.perf_counter() - middle)
    return {"open": opened, "rss_mb": rss, "keyframe": statistics.median(keyframes), "sweep": statistics.median(sweeps)}


def read_all(path: Path, barrier: Any, queue: Any) -> None:
    """Read every page of the store, wait for the others, then report the map's (RSS, PSS) in
    bytes.
    """
    from petrflow.annotations import AnnotationStore

    store = AnnotationStore.open(path)
    for column in store.columns.values():
        data = column if isinstance(column, np.ndarray) else np.frombuffer(column._data, dtype=np.uint8)
        data.view(np.uint8).reshape(-1)[::4096].sum()
    barrier.wait()
    rss = pss = 0
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            inside = line.endswith(str(path))
        elif inside and line.startswith(("Rss:", "Pss:")):
            size = 1024 * int(line.split()[1])
            rss, pss = (rss + size, pss) if line.startswith("Rss:") else (rss, pss + size)
    queue.put((rss, pss))
    barrier.wait()


if __name__ == "__main__":
    main()
