"""A GPU belongs to one training, named the same for every user; a full memory is one sentence."""

from __future__ import annotations

import paddle
import pytest

from petrflow.errors import CannotWrite, MachineError
from petrflow.machine.hardware import gpu_uuids
from petrflow.training import gpu, train
from petrflow.training.request import Schedule
from petrflow.training.stopping import Stopped, StopRequest
from tests.helpers.fake_training import fake_parts, make_request

UUIDS = {0: "GPU-1f0a-b1", 1: "GPU-2e3b-c2"}
# Paddle 2.x to 3.x, from public reports; the class is what 3.3.1 raises for its own allocators.
GPU_FULL = """

--------------------------------------
C++ Traceback (most recent call last):
--------------------------------------
ResourceExhaustedError:

Out of memory error on GPU 0. Cannot allocate 98.000244MB memory on GPU 0, 6.000000GB memory has been allocated and available memory is only 0.000000B.

Please check whether there is any other process using GPU 0.
1. If yes, please stop them, or start PaddlePaddle on another GPU.
2. If no, please decrease the batch size of your model.
"""


def test_a_gpu_has_the_same_name_for_all_who_can_see_it(monkeypatch):
    monkeypatch.setattr(gpu, "gpu_uuids", lambda: UUIDS)
    names = {}
    for visible in ("", "0,1", "1,0", "GPU-2e3b-c2", "GPU-2e", "MIG-77/1/0"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        names[visible] = gpu.physical_gpu("gpu:0")
    assert names == {
        "": "GPU-1f0a-b1",
        "0,1": "GPU-1f0a-b1",
        "1,0": "GPU-2e3b-c2",
        "GPU-2e3b-c2": "GPU-2e3b-c2",
        "GPU-2e": "GPU-2e3b-c2",
        "MIG-77/1/0": "MIG-77/1/0",
    }


def test_uuids_come_from_nvidia_smi_where_there_is_one(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_uuids() == {}
    stand_in = tmp_path / "nvidia-smi"
    stand_in.write_text("#!/bin/sh\nprintf '0, GPU-1f0a-b1\\n1, GPU-2e3b-c2\\nNo devices were found\\n'\n")
    stand_in.chmod(0o755)
    assert gpu_uuids() == UUIDS


def test_a_lock_file_that_cannot_be_opened_is_an_error_and_not_a_wait(tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise CannotWrite("Permission denied")

    monkeypatch.setattr(gpu, "lock", refuse)
    with (
        StopRequest() as stop,
        pytest.raises(CannotWrite),
        gpu.own_gpu("gpu:0", Schedule.from_schedule({}), stop, tmp_path),
    ):
        pass


def test_the_first_of_several_processes_locks_all_gpus_in_the_order_of_their_names(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "gpu_uuids", lambda: UUIDS)
    monkeypatch.setattr(gpu, "lock_folder", lambda: tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    taken = []
    plain = gpu.lock
    monkeypatch.setattr(gpu, "lock", lambda path, **options: taken.append(path.name) or plain(path, **options))
    ready = tmp_path / "launch" / "ready"
    with StopRequest() as stop:
        with gpu.own_gpus("gpu:0", Schedule.from_schedule({}), stop, ready):
            assert taken == ["petrflow-GPU-1f0a-b1.lock", "petrflow-GPU-2e3b-c2.lock"]
            assert ready.exists()
        ready.unlink()
        monkeypatch.setenv("PADDLE_TRAINER_ID", "1")
        stop.signal_name = "SIGTERM"
        with pytest.raises(Stopped, match="waiting for the first process"):
            with gpu.own_gpus("gpu:1", Schedule.from_schedule({}), stop, ready):
                pass


@pytest.mark.parametrize(
    "error", [MemoryError(GPU_FULL), OSError("(External) CUDNN error(4), CUDNN_STATUS_ALLOC_FAILED.")]
)
def test_a_full_gpu_is_one_sentence_that_names_what_can_be_set(error, tmp_path):
    request = make_request(tmp_path, {"input": {"image_size": [320, 800]}, "model": {}}, batch_size=6)
    with pytest.raises(MachineError) as caught, gpu.memory_errors("gpu:1", request):
        raise error
    said = str(caught.value)
    assert said.startswith("The memory of gpu:1 is full (")
    for words in (
        "schedule.batch_size (now 6)",
        "(now 320 x 800 pixels)",
        "model.use_recompute: true",
        "last checkpoint, which stays",
    ):
        assert words in said
    assert "\n" not in said


def test_other_errors_stay_what_they_are_and_recomputation_is_not_advised_twice(tmp_path):
    request = make_request(tmp_path, {"model": {"use_recompute": True}})
    with pytest.raises(RuntimeError, match="another thing"), gpu.memory_errors("gpu:0", request):
        raise RuntimeError("another thing")
    with pytest.raises(MachineError) as caught, gpu.memory_errors("gpu:0", request):
        raise MemoryError(GPU_FULL)
    assert "use_recompute" not in str(caught.value)
    with pytest.raises(MachineError, match="The memory of this machine is full"), gpu.memory_errors("gpu:0", request):
        paddle.zeros([10**13])  # 40 TB of the machine's own memory: Paddle's real error


def test_a_training_that_runs_out_of_memory_keeps_its_checkpoint(tmp_path):
    request = make_request(tmp_path, checkpoint_minutes=0.0)

    def parts(request):
        made = fake_parts(request)
        plain = made.model.losses

        def losses(batch):
            if made.model.steps == 3:
                raise MemoryError(GPU_FULL)
            return plain(batch)

        made.model.losses = losses
        return made

    with pytest.raises(MachineError, match="The memory of this machine is full"):
        train.train(request, parts)
    assert list((tmp_path / "state").glob("*/checkpoint-*"))
    assert train.train(request, fake_parts)["steps"] == 18
