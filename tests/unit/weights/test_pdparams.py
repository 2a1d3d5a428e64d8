"""Weights and pickles: plain data comes back as it was, hostile pickles do nothing but raise."""

from __future__ import annotations

import builtins
import collections
import io
import os
import pickle
import random
import resource
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from petrflow.errors import PetrflowError
from petrflow.weights.pdparams import load_pdparams, load_pickle, names_and_shapes, save_pdparams
from petrflow.weights.plain_pickle import read_plain
from tests.helpers.weights import save_safetensors

PLAIN = {
    "numbers": [1, -5, 2.5, 2**70, True, None, 3j],
    "text": ["é", "", b"\xff\x00", bytearray(b"ab")],
    "sets": [{1}, frozenset({"a"})],
    "nested": {"tuple": (1, (2, 3), []), 4: {"x": {}}, (1, "a"): 0},
    "ordered": collections.OrderedDict(b=1, a=2),
    "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big endian": np.arange(3, dtype=">i4"),
    "empty": np.zeros((0, 9)),
    "zero dimensions": np.array(3.0),
    "booleans": np.array([True, False]),
    "names": np.array(["car", "truck"]),
    "half": np.ones(2, np.float16),
    "scalar": [np.float32(3), np.int64(-1), np.bool_(True), np.str_("x")],
}


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and bool(np.array_equal(a, b))
    if isinstance(a, dict):
        return type(a) is type(b) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_of_every_protocol_comes_back_as_it_was(tmp_path: Path, protocol: int) -> None:
    assert same(load_pickle(write(tmp_path / "plain.pkl", pickle.dumps(PLAIN, protocol=protocol))), PLAIN)


def test_arrays_that_were_one_object_are_one_object_again(tmp_path: Path) -> None:
    array = np.arange(3)
    loaded = load_pickle(write(tmp_path / "shared.pkl", pickle.dumps([array, {"again": array}])))
    assert loaded[0] is loaded[1]["again"]


def test_loaded_arrays_can_be_written_to(tmp_path: Path) -> None:
    loaded = load_pickle(write(tmp_path / "array.pkl", pickle.dumps(np.zeros(3))))
    loaded[0] = 1.0
    assert loaded.tolist() == [1.0, 0.0, 0.0]


# ------------------------------------------------------------------------------------------------------------------ hostile


class Reduced:
    """Pickles as a call of anything."""

    def __init__(self, *call: Any):
        self.call = call

    def __reduce__(self) -> Any:
        return self.call


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def dtype_with_state(state: tuple[Any, ...]) -> bytes:
    return b"cnumpy\ndtype\n(" + text("V16") + b"I00\nI01\ntR" + pickle.dumps(state, 2)[2:-1] + b"b."


MARK = "touched"
SHELL = f"touch {MARK}"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
F4 = (
    b"cnumpy\ndtype\n("
    + text("f4")
    + b"I00\nI01\ntR(K\x03"
    + text("<")
    + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
)

HOSTILE: dict[str, Callable[[], bytes]] = {
    "os.system": lambda: pickle.dumps(Reduced(os.system, (SHELL,))),
    "os.system, text protocol": lambda: pickle.dumps(Reduced(os.system, (SHELL,)), 0),
    "subprocess.Popen": lambda: pickle.dumps(Reduced(subprocess.Popen, (["touch", MARK],))),
    "builtins.eval": lambda: pickle.dumps(Reduced(builtins.eval, (f"open({MARK!r}, 'w')",))),
    "builtins.exec": lambda: pickle.dumps(Reduced(builtins.exec, (f"open({MARK!r}, 'w')",))),
    "builtins.open": lambda: pickle.dumps(Reduced(builtins.open, (MARK, "w"))),
    "builtins.getattr": lambda: pickle.dumps(Reduced(builtins.getattr, ("", "format"))),
    "builtins.__import__": lambda: pickle.dumps(Reduced(builtins.__import__, ("antigravity",))),
    "what Paddle writes for a DenseTensor": lambda: pickle.dumps(Reduced(builtins.eval, ("data", {"data": 1}))),
    "a dotted name through an admitted module": lambda: b"\x80\x04" + text("numpy") + text("os.system") + b"\x93" + text(SHELL) + b"\x85R.",
    "a name of numpy that is not admitted": lambda: b"\x80\x04cnumpy\nload\n" + text("x") + b"\x85R.",
    "numpy.memmap as array class": lambda: b"\x80\x04cnumpy.core.multiarray\n_reconstruct\ncnumpy\nmemmap\nK\x00\x85C\x01b\x87R.",
    "a direct call of numpy.ndarray": lambda: b"\x80\x04cnumpy\nndarray\n(K\x04\x85tR.",
    "an INST instruction": lambda: b"(" + text(SHELL) + b"ios\nsystem\n.",
    "an OBJ instruction": lambda: b"(cos\nsystem\n" + text(SHELL) + b"o.",
    "NEWOBJ of an admitted name": lambda: b"\x80\x02cnumpy\nndarray\n)\x81.",
    "a persistent id": lambda: b"Pfile:///etc/passwd\n.",
    "an extension code": lambda: b"\x80\x02\x82\x01.",
    "BUILD on an admitted callable": lambda: b"\x80\x04cnumpy.core.multiarray\n_reconstruct\n}" + text("make") + b"N" + b"sb.",
    "BUILD with slots on a list": lambda: b"\x80\x04]N}" + text("append") + b"Ns\x86b.",
    "an object array": lambda: pickle.dumps(np.array([Reduced(os.system, (SHELL,)), None], dtype=object)),
    "an object array of plain values": lambda: pickle.dumps(np.array([1, "a"], dtype=object)),
    "a dtype whose state hides objects in bytes": lambda: dtype_with_state((3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 16, 1, 0)),
    "a dtype of another item size": lambda: F4.replace(b"J\xff\xff\xff\xffJ", b"K\x40J", 1) + b".",
    "an array longer than its bytes": lambda: ARRAY + b"(K\x01(J\xff\xff\xff\x7ft" + F4 + b"\x89C\x04\0\0\0\0tb.",
    "an array with a negative side": lambda: ARRAY + b"(K\x01(J\xff\xff\xff\xfft" + F4 + b"\x89C\x04\0\0\0\0tb.",
    "an admitted function as a value": lambda: b"\x80\x02](cbuiltins\nset\nK\x01e.",
    "an admitted function in a tuple that was used before": lambda: b"\x80\x02](cbuiltins\nset\nq\x00]q\x01\x85Rh\x00\x85e.",
    "an array that is never filled": lambda: b"]" + ARRAY + b"a.",
    "an array used before it is filled": lambda: b"]" + ARRAY + b"q\x00h\x00ee.",
    "a codec other than latin1": lambda: pickle.dumps(Reduced(__import__("codecs").encode, ("x", "rot13"))),
    "a place in memory that is billions away": lambda: b"\x80\x02Nr\xff\xff\xff\xff]" + b"r\xff\xff\xff\x7f" + b"c",
    "a length of a terabyte": lambda: b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"x.",
    "a frame of an exabyte": lambda: b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N.",
    "keys whose hash takes for ever": lambda: b"\x80\x04})" + b"".join(b"\x94h" + bytes([i]) + b"\x86" for i in range(60)) + b"Ns.",
    "one buffer unfolded a thousand times": lambda: b"\x80\x04("
    + b"B" + struct.pack("<I", 1 << 20) + bytes(1 << 20) + b"\x940"
    + (ARRAY + b"(K\x01(J\0\0\x10\0t" + F4.replace(text("f4"), text("u1")).replace(text("<"), text("|")) + b"\x89h\x00tb") * 1000 + b"t.",
    "a defaultdict with a factory": lambda: pickle.dumps(collections.defaultdict(list)),
    "a class of a module that would be imported": lambda: b"cantigravity\nfly\n.",
    "a recursive reduction": lambda: pickle.dumps(Reduced(pickle.loads, (pickle.dumps(Reduced(os.system, (SHELL,))),))),
    "a stop without a value": lambda: b"\x80\x04.",
    "text that is no number": lambda: b"Iabc\n.",
    "random bytes": lambda: bytes(range(256)),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_does_nothing_but_raise(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "hostile.pdparams", HOSTILE[name]())
    modules = set(sys.modules)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PetrflowError, match=r"hostile\.pdparams"):
        load_pickle(path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["hostile.pdparams"]
    assert set(sys.modules) == modules
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 100 << 10  # KB


def test_a_hostile_pickle_leaves_the_reader_as_it_was(tmp_path: Path) -> None:
    for name, make in HOSTILE.items():
        with pytest.raises(PetrflowError):
            load_pickle(write(tmp_path / "hostile.pkl", make()))
        assert same(load_pickle(write(tmp_path / "plain.pkl", pickle.dumps(PLAIN))), PLAIN), name


def test_whatever_is_flipped_cut_or_spliced_the_outcome_is_plain_data_or_an_error(tmp_path: Path) -> None:
    draw = random.Random(0)
    seeds = [pickle.dumps(PLAIN, protocol) for protocol in range(6)]
    seeds += [make() for name, make in HOSTILE.items() if "thousand" not in name]
    for _ in range(3000):
        content = bytearray(draw.choice(seeds))
        for _ in range(draw.choice((1, 1, 2, 5))):
            at, kind = draw.randrange(len(content) + 1), draw.randrange(4)
            if kind == 0:
                content[at : at + 1] = draw.randbytes(1)
            elif kind == 1:
                del content[at : at + draw.randrange(1, 9)]
            elif kind == 2:
                content[at:at] = draw.randbytes(draw.randrange(1, 9))
            else:
                other = draw.choice(seeds)
                content[at:] = other[draw.randrange(len(other)) :]
        try:
            value = read_plain(io.BytesIO(bytes(content)), len(content))
        except Exception:
            continue
        assert is_plain(value, set()), bytes(content)


def is_plain(value: Any, seen: set[int]) -> bool:
    if id(value) in seen:
        return True
    seen.add(id(value))
    if isinstance(value, dict):
        return all(is_plain(key, seen) and is_plain(entry, seen) for key, entry in value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(is_plain(entry, seen) for entry in value)
    plain = (np.ndarray, np.generic, np.dtype, str, bytes, bytearray, int, float, complex, type(None))
    return isinstance(value, plain) and not (isinstance(value, np.ndarray) and value.dtype.hasobject)


def test_a_refusal_names_what_was_asked_for_and_the_remedy(tmp_path: Path) -> None:
    path = write(tmp_path / "evil.pdparams", pickle.dumps(Reduced(os.system, ("true",))))
    with pytest.raises(PetrflowError, match=r"posix\.system.*nothing of it was run.*publisher"):
        load_pdparams(path)


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_file_cut_anywhere_is_an_error_and_never_fewer_weights(tmp_path: Path, part: float) -> None:
    save_pdparams(tmp_path / "whole.pdparams", {f"w{i}": np.arange(100.0) for i in range(10)})
    whole = (tmp_path / "whole.pdparams").read_bytes()
    with pytest.raises(PetrflowError, match="get it from its publisher again"):
        load_pdparams(write(tmp_path / "cut.pdparams", whole[: int(len(whole) * part)]))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"<!DOCTYPE html><html>login</html>", "web page"),
        (b"PK\x03\x04rest", "zip archive"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"", "empty"),
    ],
)
def test_a_file_that_is_no_weights_at_all_is_called_what_it_is(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(PetrflowError, match=says):
        load_pdparams(write(tmp_path / "model.pdparams", content))


# ------------------------------------------------------------------------------------------------------------------ weights


WEIGHTS = {
    "backbone.conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "scalar": np.array(3.0, np.float32),
    "empty": np.zeros((0, 3), np.float32),
    "count": np.array([7], np.int64),
    "mask": np.array([True, False]),
    "half": np.ones(3, np.float16),
    "big endian": np.arange(3, dtype=">f4"),
}


def test_paddle_reads_what_we_write(tmp_path: Path) -> None:
    paddle = pytest.importorskip("paddle")
    save_pdparams(tmp_path / "ours.pdparams", WEIGHTS)
    loaded = paddle.load(str(tmp_path / "ours.pdparams"))
    assert list(loaded) == list(WEIGHTS)
    for name, value in WEIGHTS.items():
        assert isinstance(loaded[name], paddle.Tensor)
        assert loaded[name].numpy().dtype == value.dtype.newbyteorder("=")
        np.testing.assert_array_equal(loaded[name].numpy(), value)
        assert tuple(loaded[name].shape) == value.shape


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_we_read_what_paddle_writes(tmp_path: Path, protocol: int) -> None:
    paddle = pytest.importorskip("paddle")
    layer = paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 3), paddle.nn.BatchNorm2D(4))
    paddle.save(layer.state_dict(), str(tmp_path / "theirs.pdparams"), protocol=protocol)
    loaded = load_pdparams(tmp_path / "theirs.pdparams")
    state = layer.state_dict()
    assert list(loaded) == list(state)
    for name, value in loaded.items():
        np.testing.assert_array_equal(value, state[name].numpy())


def test_arrays_that_paddle_cut_into_slices_come_back_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("paddle")
    from paddle.framework import io_utils

    # Paddle cuts at 1 GB; a smaller number takes the same way.
    source = Path(io_utils.__file__).read_text()
    assert "UnpackBigParamInfor@@" in source
    monkeypatch.setattr(io_utils, "int", lambda value: 10 if value > 2**26 else builtins.int(value), raising=False)
    weights = {"large": np.arange(35, dtype=np.float32).reshape(5, 7), "small": np.ones(2, np.float32)}
    cut = io_utils._unpack_saved_dict(dict(weights), 2)
    assert "UnpackBigParamInfor@@" in cut
    loaded = load_pdparams(write(tmp_path / "cut.pdparams", pickle.dumps(cut, 2)))
    assert set(loaded) == set(weights)
    for name, value in weights.items():
        np.testing.assert_array_equal(loaded[name], value)


def test_bare_tensors_with_their_names_are_read(tmp_path: Path) -> None:
    paddle = pytest.importorskip("paddle")
    paddle.save({"w": paddle.ones([2])}, str(tmp_path / "bare.pdparams"))
    np.testing.assert_array_equal(load_pdparams(tmp_path / "bare.pdparams")["w"], np.ones(2, np.float32))


def test_something_else_than_weights_is_refused_with_its_keys(tmp_path: Path) -> None:
    path = write(tmp_path / "checkpoint.pdparams", pickle.dumps({"model": {"w": np.ones(2)}, "epoch": 3}))
    with pytest.raises(PetrflowError, match=r"'model' is a dict.*state_dict"):
        load_pdparams(path)


def test_equal_weights_give_equal_bytes(tmp_path: Path) -> None:
    save_pdparams(tmp_path / "a.pdparams", WEIGHTS)
    # Fresh strings, fresh dtypes, other memory order: nothing of it may show.
    fresh = {
        "".join(list(name)): np.array(value, dtype=np.dtype(value.dtype.str), order="F")
        for name, value in WEIGHTS.items()
    }
    save_pdparams(tmp_path / "b.pdparams", fresh)
    assert (tmp_path / "a.pdparams").read_bytes() == (tmp_path / "b.pdparams").read_bytes()
    save_safetensors(tmp_path / "a.safetensors", WEIGHTS)
    save_safetensors(tmp_path / "b.safetensors", dict(reversed(list(fresh.items()))))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.parametrize("ending", [".pdparams", ".safetensors"])
def test_weights_survive_the_round_trip(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"model{ending}"
    (save_pdparams if ending == ".pdparams" else save_safetensors)(path, WEIGHTS)
    loaded = load_pdparams(path)
    assert set(loaded) == set(WEIGHTS)
    for name, value in WEIGHTS.items():
        np.testing.assert_array_equal(loaded[name], value)
        assert loaded[name].shape == value.shape


def test_safetensors_are_known_by_their_content_under_any_name(tmp_path: Path) -> None:
    save_safetensors(tmp_path / "model.pdparams", WEIGHTS)
    assert set(load_pdparams(tmp_path / "model.pdparams")) == set(WEIGHTS)
    os.truncate(tmp_path / "model.pdparams", 400)
    with pytest.raises(PetrflowError, match="is not a complete safetensors file"):
        load_pdparams(tmp_path / "model.pdparams")


def test_weights_that_paddle_cannot_hold_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(PetrflowError, match="The weight names has type"):
        save_pdparams(tmp_path / "model.pdparams", {"names": np.array(["car"])})
    assert not (tmp_path / "model.pdparams").exists()


def test_numpys_older_name_stands_in_the_file_because_old_readers_know_no_other(tmp_path: Path) -> None:
    save_pdparams(tmp_path / "model.pdparams", {"w": np.ones(2, np.float32)})
    assert b"numpy._core" not in (tmp_path / "model.pdparams").read_bytes()
    assert pickle.loads((tmp_path / "model.pdparams").read_bytes())["w"].tolist() == [1.0, 1.0]


# ------------------------------------------------------------------------------------------------------------------ shapes alone


WITH_LARGE = {
    "large": np.zeros((600, 700), "float32"),
    "small": np.zeros(3, "float32"),
    "half": np.zeros((2, 1 << 20), "float16"),
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_shapes_are_those_of_the_whole_file_and_large_arrays_take_no_memory(tmp_path: Path, protocol: int) -> None:
    path = write(tmp_path / "model.pdparams", pickle.dumps(WITH_LARGE, protocol))
    assert names_and_shapes(path) == {name: value.shape for name, value in WITH_LARGE.items()}
    if protocol > 2:  # protocol 2 writes bytes as text, which is read whole
        assert load_pdparams(path, shapes_only=True)["large"].strides == (0, 0)
    save_pdparams(path, WITH_LARGE)
    assert names_and_shapes(path) == {name: value.shape for name, value in WITH_LARGE.items()}


@pytest.mark.parametrize("part", [0.1, 0.5, 0.999])
@pytest.mark.parametrize("suffix", ["pdparams", "safetensors"])
def test_a_damaged_file_is_one_sentence_when_only_shapes_are_asked_for(
    tmp_path: Path, part: float, suffix: str
) -> None:
    path = tmp_path / f"model.{suffix}"
    (save_pdparams if suffix == "pdparams" else save_safetensors)(path, WITH_LARGE)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(PetrflowError, match=r"is not a complete \w+.*get it from its publisher again"):
        names_and_shapes(path)
    with pytest.raises(PetrflowError, match="get it from its publisher again"):
        load_pdparams(path)


def test_shapes_of_a_hostile_pickle_are_refused_as_its_arrays_are(tmp_path: Path) -> None:
    path = write(tmp_path / "model.pdparams", pickle.dumps({"w": np.zeros(3), "x": print}))
    with pytest.raises(PetrflowError, match="nothing of it was run"):
        names_and_shapes(path)
