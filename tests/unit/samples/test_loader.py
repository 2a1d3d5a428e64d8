from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from petrflow.errors import PetrflowError
from petrflow.samples.dataset import PetrDataset
from petrflow.samples.loader import Loader, epoch_batches, epoch_order, sample_rng
from tests.helpers.loader_fakes import FakeStore, model_config, small_store, with_changes

SMALL = model_config((64, 160), resize_lim=[0.1, 0.13])
ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.xdist_group("loader")  # they share workers, which take seconds to start
# Fixed for good: checkpoints count on them.
ORDER_OF_SEED_0 = [6, 5, 1, 7, 3, 0, 4, 8, 2, 9]
FIRST_DRAWS_OF_SEED_0 = [0.875308, 0.304299, 0.049181]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def store(folder) -> FakeStore:
    return small_store(folder, keyframes=11)


@pytest.fixture(scope="module")
def dataset(folder, store) -> PetrDataset:
    return PetrDataset(None, folder, SMALL, training=True, store=store)


@pytest.fixture(scope="module")
def pool(dataset) -> Iterator[Loader]:
    """A loader with two workers."""
    with _loader(dataset, 2) as loader:
        yield loader


def _loader(dataset: PetrDataset, num_workers: int = 0, batch_size: int = 2, seed: int = 7, **options) -> Loader:
    return Loader(dataset, batch_size, seed, num_workers, **{"shuffle": True, "drop_last": False, **options})


def _frozen(batch: dict) -> list:
    """A copy of everything in a batch, comparable with ==."""
    out = []
    for key in sorted(batch):
        values = batch[key] if isinstance(batch[key], list) else [batch[key]]
        out += [
            (key, value if isinstance(value, str) else (value.shape, str(value.dtype), value.tobytes()))
            for value in values
        ]
    return out


def test_the_order_is_a_function_of_seed_and_epoch_alone():
    first = epoch_order(3, 5, 100, True)
    np.random.default_rng(1).random(9)
    np.testing.assert_array_equal(first, epoch_order(3, 5, 100, True))
    assert sorted(first) == list(range(100))
    assert not np.array_equal(first, epoch_order(3, 6, 100, True))
    assert not np.array_equal(first, epoch_order(4, 5, 100, True))
    assert epoch_order(0, 0, 10, True).tolist() == ORDER_OF_SEED_0
    assert [round(float(sample_rng(0, 0, index).random()), 6) for index in range(3)] == FIRST_DRAWS_OF_SEED_0


@pytest.mark.parametrize("length", [8, 9, 11, 13])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_see_every_sample_once_in_evaluation_and_step_alike_in_training(length, world_size):
    order = epoch_order(0, 0, length, True)

    def cut(**options) -> list[list[np.ndarray]]:
        return [epoch_batches(order, 2, rank=rank, world_size=world_size, **options) for rank in range(world_size)]

    evaluation = cut(drop_last=False, equal_steps=False)
    assert sorted(np.concatenate([np.concatenate(batches) for batches in evaluation if batches])) == list(range(length))
    training = cut(drop_last=False, equal_steps=True)
    assert len({len(batches) for batches in training}) == 1
    assert set(np.concatenate([np.concatenate(batches) for batches in training])) == set(range(length))
    dropping = cut(drop_last=True, equal_steps=True)
    assert {len(batches) for batches in dropping} == {length // (2 * world_size)}
    assert all(len(batch) == 2 for batches in dropping for batch in batches)


def test_two_ranks_together_take_the_steps_of_one_process_with_the_doubled_batch():
    order = epoch_order(0, 0, 12, True)
    whole = epoch_batches(order, 4, drop_last=True, rank=0, world_size=1, equal_steps=True)
    halves = [epoch_batches(order, 2, drop_last=True, rank=rank, world_size=2, equal_steps=True) for rank in (0, 1)]
    for step, batch in enumerate(whole):
        np.testing.assert_array_equal(np.concatenate([halves[0][step], halves[1][step]]), batch)


def test_batches_are_the_same_bytes_with_any_number_of_workers(dataset, pool):
    with _loader(dataset) as here:
        expected = [[_frozen(batch) for batch in here.epoch(epoch)] for epoch in (0, 1)]
        assert len(expected[0]) == len(here) == 6
    assert expected[0] != expected[1]
    assert [[_frozen(batch) for batch in pool.epoch(epoch)] for epoch in (0, 1)] == expected
    with _loader(dataset, 5, prefetch=1) as loader:
        assert [_frozen(batch) for batch in loader.epoch(0)] == expected[0]


def test_an_epoch_continued_in_its_middle_gives_the_rest_of_it(dataset, pool):
    with _loader(dataset) as loader:
        whole = [_frozen(batch) for batch in loader.epoch(4)]
        for start in (0, 1, 4, 6, 9):
            assert [_frozen(batch) for batch in loader.epoch(4, start_batch=start)] == whole[start:]
    left = pool.epoch(4)
    next(left)
    assert [_frozen(batch) for batch in pool.epoch(4, start_batch=2)] == whole[2:]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_that_are_kept_are_not_overwritten(dataset, pool, workers):
    loader = pool if workers else _loader(dataset)
    then, kept = [], []
    for epoch in range(3):
        for batch in loader.epoch(epoch):
            kept.append(batch["img"][:, :1])  # a view is enough to keep the memory
            then.append(kept[-1].copy())
    for view, copy in zip(kept, then, strict=True):
        np.testing.assert_array_equal(view, copy)


def test_memory_goes_round_when_nothing_is_kept(pool):
    addresses = {batch["img"].ctypes.data for epoch in range(4) for batch in pool.epoch(epoch)}
    assert len(addresses) <= pool._slots.count


def test_validation_loads_in_order_without_augmentation(folder, store):
    dataset = PetrDataset(None, folder, SMALL, training=False, store=store)
    with _loader(dataset, 2, shuffle=False) as loader:
        batches = [(batch["token"], batch["img"].copy(), sorted(batch)) for batch in loader.epoch(0)]
    assert [token for tokens, _, _ in batches for token in tokens] == [f"token-{k:04d}" for k in range(11)]
    assert batches[0][2] == ["img", "intrinsics", "lidar2img", "timestamp", "token"]
    np.testing.assert_array_equal(batches[2][1][1], dataset.load(5)["img"])


def test_a_broken_picture_is_the_same_error_at_the_same_batch_with_and_without_workers(folder, store):
    broken = with_changes(store, 3, image_paths=["not-there.jpg", *store[3].image_paths[1:]])
    dataset = PetrDataset(None, folder, SMALL, training=True, store=broken)
    outcomes = []
    for workers in (0, 2):
        seen: list[list[str]] = []
        with (
            _loader(dataset, workers) as loader,
            pytest.raises(PetrflowError, match=r"not-there\.jpg.*token-0003") as caught,
        ):
            seen.extend(batch["token"] for batch in loader.epoch(0))
        outcomes.append((seen, str(caught.value)))
    assert outcomes[0] == outcomes[1]


class Unpicklable(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__("two arguments, which pickle cannot know")


class Failing(PetrDataset):
    """Fails in ways that depend on the sample."""

    def load(self, index, rng=None, **options):
        if index == 2:
            raise Unpicklable(1, 2)
        if index == 5:
            raise ZeroDivisionError("one over zero")
        return super().load(index, rng, **options)


def test_unexpected_errors_keep_their_type_and_bring_the_workers_traceback(folder, store):
    dataset = Failing(None, folder, SMALL, training=True, store=store)
    with _loader(dataset, 1, shuffle=False, batch_size=1) as loader:
        for _ in loader.epoch(0, start_batch=3):
            break
        with pytest.raises(ZeroDivisionError, match="one over zero") as caught:
            list(loader.epoch(0, start_batch=5))
        assert any("in load" in note for note in caught.value.__notes__)
        with pytest.raises(RuntimeError, match="Unpicklable"):
            list(loader.epoch(0, start_batch=2))


class Slow(PetrDataset):
    """Takes so long that its workers can be caught at it."""

    def load(self, index, rng=None, **options):
        time.sleep(0.5 if index < 3 else 60)
        return super().load(index, rng, **options)


def _workers_of(process: psutil.Process) -> list[psutil.Process]:
    children = process.children(recursive=True)
    return [child for child in children if any("samples.worker" in part for part in child.cmdline())]


def _started_by(loader: Loader) -> list[psutil.Process]:
    """A loader's processes: the one that started the workers, and the workers."""
    assert loader._pool is not None
    starter = psutil.Process(loader._pool._process.pid)
    return [starter, *starter.children()]


def test_a_killed_worker_is_an_error_that_names_its_sample(folder, store):
    dataset = Slow(None, folder, SMALL, training=True, store=store)
    with _loader(dataset, 2, shuffle=False, batch_size=1) as loader:
        batches = loader.epoch(0)
        next(batches)
        workers = _started_by(loader)
        workers[2].kill()  # it holds sample 1, and perhaps 3
        with pytest.raises(PetrflowError, match=r"killed by SIGKILL while loading sample token-000\d.*fewer workers"):
            list(batches)
        assert not _wait_for_end(workers, 5)
        assert next(loader.epoch(0))["token"] == ["token-0000"]  # by new workers


def test_workers_that_cannot_start_are_an_error(folder, store, capfd):
    broken = FakeStore(store.keyframes, store.camera_names)
    broken.trap = Trap()  # type: ignore[attr-defined]
    with _loader(PetrDataset(None, folder, SMALL, training=True, store=broken), 2) as loader:
        with pytest.raises(PetrflowError, match="could not start"):
            next(loader.epoch(0))
    assert "sprung" in capfd.readouterr().err


class Trap:
    def __reduce__(self):
        return _spring, ()


def _spring() -> None:
    raise ValueError("sprung")


def test_wrong_arguments_are_refused(dataset):
    for wrong in ({"batch_size": 0}, {"num_workers": -1}, {"rank": 2, "world_size": 2}):
        with pytest.raises(PetrflowError, match="Loader needs"):
            _loader(dataset, **wrong)
    with pytest.raises(PetrflowError, match="make no batch"):
        _loader(dataset, batch_size=12, drop_last=True)


@contextlib.contextmanager
def _parent(folder: Path, body: str):
    """A process with a loader of three workers that has printed "first", in a process group of its own, and its workers."""
    code = f"""
    import sys, time, signal
    sys.path.insert(0, {str(ROOT)!r})
    from pathlib import Path
    from tests.helpers.loader_fakes import small_store
    from tests.unit.samples.test_loader import SMALL, PetrDataset, Loader
    folder = Path({str(folder)!r})
    store = small_store(folder, keyframes=11)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code) + textwrap.dedent(body)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "first\n", process.stderr.read()
        deadline = time.monotonic() + 10
        while len(workers := _workers_of(psutil.Process(process.pid))) < 4 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(workers) == 4  # three, and the one that started them
        yield process, workers
    finally:
        process.kill()
        process.communicate()


def _wait_for_end(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_workers_end_with_a_killed_parent_and_leave_no_shared_memory(tmp_path):
    body = """
    with Loader(PetrDataset(None, folder, SMALL, True, store=store), 1, 0, 3, shuffle=False, drop_last=False) as loader:
        for batch in loader.epoch(0):
            print("first", flush=True)
            time.sleep(60)
    """
    with _parent(tmp_path, body) as (parent, workers):
        maps = [part.path for process in workers for part in process.memory_maps(grouped=False)]
        assert any("petrflow-loader" in path for path in maps)  # a memory file: it goes with its last process
        assert not any(path.startswith("/dev/shm") for path in maps)
        parent.kill()
        assert not _wait_for_end(workers, 10)


def test_an_interrupt_to_the_whole_group_is_for_the_parent_to_answer(tmp_path):
    body = """
    import os
    stopped = []
    signal.signal(signal.SIGINT, lambda *_: stopped.append("INT"))
    signal.signal(signal.SIGTERM, lambda *_: stopped.append("TERM"))
    with Loader(PetrDataset(None, folder, SMALL, True, store=store), 1, 0, 3, shuffle=False, drop_last=False) as loader:
        for epoch in range(100000):
            for batch in loader.epoch(epoch):
                if epoch == 0 and batch["token"] == ["token-0000"]:
                    print("first", flush=True)
                if len(stopped) == 2:
                    break
            if len(stopped) == 2:
                break
    print("calm", sorted(stopped))
    """
    with _parent(tmp_path, body) as (parent, workers):
        for number in (signal.SIGINT, signal.SIGTERM):
            os.killpg(parent.pid, number)
            time.sleep(0.2)
        out, err = parent.communicate(timeout=60)
        assert out == "calm ['INT', 'TERM']\n"
        assert err == ""
        assert not _wait_for_end(workers, 10)


def test_stuck_workers_do_not_hold_up_the_end(folder, store, monkeypatch):
    monkeypatch.setattr("petrflow.samples.pool._SECONDS_TO_STOP", 0.5)
    dataset = Slow(None, folder, SMALL, training=True, store=store)
    loader = _loader(dataset, 2, shuffle=False, batch_size=1)
    batches = loader.epoch(0)
    for _ in range(3):
        next(batches)  # now both sleep for a minute
    workers = _started_by(loader)
    start = time.monotonic()
    loader.close()
    assert time.monotonic() - start < 10
    assert not _wait_for_end(workers, 5)


def _resident(processes: list[psutil.Process]) -> float:
    """MB that belong to the processes alone, plus their share of what they have in common."""
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().pss
    return total / 2**20


def _growth(folder: Path, samples: int) -> float:
    dataset = PetrDataset(None, folder, SMALL, training=True, store=small_store(folder, keyframes=50))
    with _loader(dataset, 2, batch_size=5) as loader:
        measured, epoch = [], 0
        for part in range(2):
            for _ in range(samples // 100 if part else max(samples // 100, 4)):
                for _ in loader.epoch(epoch):
                    pass
                epoch += 1
            measured.append(_resident([psutil.Process(), *_started_by(loader)]))
    return measured[1] - measured[0]


def test_memory_stays_flat(tmp_path):
    assert _growth(tmp_path, 600) < 8


@pytest.mark.slow
def test_memory_stays_flat_over_ten_thousand_samples(tmp_path):
    assert _growth(tmp_path, 10_000) < 8
