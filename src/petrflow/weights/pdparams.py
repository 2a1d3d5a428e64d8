"""Read weights and annotation pickles without running code from them; write weights that every
Paddle since 2.0 can read.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from petrflow.errors import PetrflowError
from petrflow.files import atomic_path, disk_errors
from petrflow.weights.plain_pickle import PLAIN_DTYPE, Refused, read_plain

_NAME_TABLE = "StructuredToParameterName@@"
_SLICE_TABLE = "UnpackBigParamInfor@@"
_NO_PICKLE = "is not a complete pickle"
_NO_WEIGHTS = "is no weights file"


# ------------------------------------------------------------------------------------------------------------------ reading


def load_pickle(path: Path, shapes_only: bool = False) -> Any:
    """Read a pickle of numpy arrays (numbers, booleans, text), scalars and plain containers;
    anything else raises and does nothing.

    With ``shapes_only``, large arrays come as zeros that take no memory, and their bytes are passed
    over.

    Raises
    ------
    PetrflowError
        the file is missing, cut short, no pickle, or asks for anything beyond plain data; the
        message says for what
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as handle:
            return read_plain(handle, size, shapes_only)
    except FileNotFoundError as error:
        raise PetrflowError(
            f"{path} does not exist: check the path, or run the step that fetches or writes it."
        ) from error
    except Refused as error:
        if _what_it_is(path, size) != _NO_PICKLE:
            raise PetrflowError(
                f"{path} {_what_it_is(path, size)}: get it from its publisher again, or name another file."
            ) from None
        raise PetrflowError(
            f"{path} asks for {error}, which plain weights or annotations never need; nothing of it was run. "
            "Do not open it with pickle or paddle.load: get the file from its publisher again and compare its SHA-256."
        ) from None
    except Exception as error:  # a broken pickle can fail in any way there is
        raise PetrflowError(
            f"{path} {_what_it_is(path, size)} ({type(error).__name__}: {error}): get it from its publisher again, or name another file."
        ) from None


def _what_it_is(path: Path, size: int) -> str:
    """A guess at what a file is that is no pickle, for the message."""
    if size == 0:
        return "is empty"
    with path.open("rb") as handle:
        head = handle.read(512).lstrip()
    if head[:1] == b"<":
        return "is a web page, not the file that was asked for (an expired link or a login page)"
    if head[:2] == b"PK":
        return "is a zip archive (a PyTorch checkpoint?), not a Paddle one"
    if head[:2] == b"\x1f\x8b":
        return "is a gzip archive"
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself"
    if head[:1] == b"{":
        return "is JSON text (a model that Paddle exported, perhaps), not weights by name"
    if path.suffix in (".onnx", ".pdiparams", ".pdmodel"):
        return f"is an exported model ({path.suffix}), not weights by name"
    if head[:1] not in b"\x80}](dlic":  # how a pickle can begin
        return _NO_WEIGHTS
    return _NO_PICKLE


def load_pdparams(path: Path, shapes_only: bool = False) -> dict[str, np.ndarray]:
    """Weights from a ``.pdparams`` file, as any Paddle since 2.0 writes it, or from safetensors
    under any name.

    With ``shapes_only``, a pickle's large arrays come as zeros that take no memory.

    Returns
    -------
    dict of parameter name to array, in the file's order; bfloat16 comes as Paddle stores it, in
    uint16
    """
    path = Path(path)
    if path.suffix == ".safetensors" or _looks_like_safetensors(path):
        return _load_safetensors(path)
    content = load_pickle(path, shapes_only)
    if not isinstance(content, dict):
        raise PetrflowError(
            f"{path} holds a {type(content).__name__}, not weights by name: name a .pdparams file of a state_dict."
        )
    content.pop(_NAME_TABLE, None)
    slices = content.pop(_SLICE_TABLE, {})
    weights: dict[str, np.ndarray] = {}
    for name, entry in content.items():
        if not isinstance(name, str):
            raise PetrflowError(
                f"{path}: the entry {name!r} has a number for a name, so this is no plain state_dict: "
                "save model.state_dict() alone with paddle.save."
            )
        named = (
            isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str)
        )  # (name inside Paddle, array)
        value = entry[1] if named else entry
        if not isinstance(value, (np.ndarray, np.generic)):
            raise PetrflowError(
                f"{path}: the entry {name!r} is a {type(value).__name__} and no array, so this is no plain state_dict: save model.state_dict() alone with paddle.save."
            )
        weights[name] = np.asarray(value)
    # Protocols 2 and 3 cannot hold more than 4 GB in one piece: Paddle cuts large arrays up and
    # keeps a table of the cuts.
    for name, entry in slices.items():
        try:
            weights[name] = np.concatenate([weights.pop(part) for part in entry["slices"]]).reshape(
                entry["OriginShape"]
            )
        except (KeyError, TypeError, ValueError) as error:
            raise PetrflowError(
                f"{path}: the pieces of {name} do not fit together ({error}): fetch the file again."
            ) from error
    return weights


def names_and_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each entry of a weights file by name, without reading its numbers.

    Raises
    ------
    PetrflowError
        The file is missing, damaged, or no weights by name.
    """
    path = Path(path)
    if path.is_dir():
        raise PetrflowError(f"{path} is a folder, not a weights file.")
    if path.suffix == ".safetensors" or _looks_like_safetensors(path):
        return _safetensors_shapes(path)
    return {name: tuple(value.shape) for name, value in load_pdparams(path, shapes_only=True).items()}


def _safetensors_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes from the header, and a look at whether the file holds as many bytes as that says."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:  # it compares the file's size with the header
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise PetrflowError(
            f"{path} does not exist: check the path, or run the step that fetches or writes it."
        ) from error
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise _damaged_safetensors(path, error) from error


def _damaged_safetensors(path: Path, error: Exception) -> PetrflowError:
    found = _what_it_is(path, path.stat().st_size)
    if found in (_NO_PICKLE, _NO_WEIGHTS):
        why = str(error).removeprefix("Error while deserializing header: ").removeprefix("invalid JSON in header: ")
        found = f"is not a complete safetensors file ({why if len(why) <= 120 else why[:117] + '…'})"
    return PetrflowError(f"{path} {found}: get it from its publisher again, or name another file.")


def _looks_like_safetensors(path: Path) -> bool:
    # A header's length in eight bytes, then JSON. No pickle begins so: its first byte would have to
    # end it.
    if not path.is_file():
        return False
    with path.open("rb") as handle:
        head = handle.read(9)
    return len(head) == 9 and head[8:] == b"{" and head[6:8] == b"\0\0"


def _load_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(path))
    except FileNotFoundError as error:
        raise PetrflowError(
            f"{path} does not exist: check the path, or run the step that fetches or writes it."
        ) from error
    except (SafetensorError, KeyError, ValueError) as error:
        raise _damaged_safetensors(path, error) from error


# ------------------------------------------------------------------------------------------------------------------ writing


def save_pdparams(path: Path, weights: Mapping[str, np.ndarray]) -> None:
    """Write weights so that stock ``paddle.load`` (2.0 and later) reads them; equal weights give
    equal bytes.

    The pickle is written instruction by instruction: pickle's own writer lets the identity of
    strings and dtypes show in the bytes, and needs a second copy of every array in memory.
    """
    path = Path(path)
    arrays = {name: np.asarray(value) for name, value in weights.items()}
    needed = sum(array.nbytes for array in arrays.values())
    with (
        atomic_path(path, needed) as temporary,
        disk_errors(path, needed, permissions=True),
        temporary.open("wb") as handle,
    ):
        handle.write(b"\x80\x04}")
        for name, array in arrays.items():
            _write_array(handle, name, array)
        handle.write(b".")


def _write_array(handle: BinaryIO, name: str, array: np.ndarray) -> None:
    if not PLAIN_DTYPE.fullmatch(array.dtype.str) or array.dtype.kind in "US":
        raise PetrflowError(
            f"The weight {name} has type {array.dtype}, which Paddle cannot load: convert it to a number type first."
        )
    dtype = array.dtype.newbyteorder("<")
    array = array.astype(dtype, order="C", copy=False)
    key = name.encode()
    shape = b"".join(_integer(side) for side in array.shape)
    handle.write(b"X" + struct.pack("<I", len(key)) + key)
    # numpy.core, not numpy._core: numpy 2 reads both, numpy 1 of Paddle 2.x reads only the older
    # name.
    handle.write(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R")
    handle.write(b"(K\x01(" + shape + b"t")
    code = array.dtype.str[1:].encode()
    order = b"|" if array.dtype.itemsize == 1 else b"<"
    handle.write(b"cnumpy\ndtype\n\x8c" + bytes([len(code)]) + code + b"\x89\x88\x87R(K\x03\x8c\x01" + order)
    handle.write(b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89")
    handle.write(
        b"B" + struct.pack("<I", array.nbytes) if array.nbytes < 2**32 else b"\x8e" + struct.pack("<Q", array.nbytes)
    )
    handle.write(array.reshape(-1).view(np.uint8).data)
    handle.write(b"tbs")


def _integer(value: int) -> bytes:
    return b"J" + struct.pack("<i", value) if value < 2**31 else b"\x8a\x08" + struct.pack("<q", value)
