"""Pickles of plain data, read without running code from them.

A pickle is a program. This reader runs a subset of that language in which nothing can be called but
the builders of numpy arrays and plain containers defined here: no import takes place, and no
constructor of numpy's own is reachable, because ``dtype.__setstate__`` and object arrays can be
talked into reading arbitrary memory. Pickle's slow Python reader is the base on purpose: its C twin
cannot be told to leave instructions out.
"""

from __future__ import annotations

import math
import pickle
import re
import struct
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO, ClassVar

import numpy as np

from petrflow.weights.plain_streams import GAP_BYTES, Bounded, Gap

PLAIN_DTYPE = re.compile(r"[<>|=]?([?bBhHiIlLqQefdgFD]|[biufc]\d{1,2}|[US]\d{1,9})")


_ARRAY_CLASS = (
    "numpy.ndarray"  # stands for the class where a pickle names it as an argument: text, which can do nothing
)


class Refused(Exception):
    """The pickle asks for something outside the subset."""


# ------------------------------------------------------------------------------------------------------------------ builders


class _Maker:
    """A stand-in for a global. It carries no attributes, so that BUILD cannot change how the next
    file is read.
    """

    __slots__ = ("make", "name")

    def __init__(self, name: str, make: Callable[..., Any]):
        self.name = name
        self.make = make


class _Pending:
    """An array or dtype that the pickle has announced and not yet filled; it never leaves the
    reader.
    """

    __slots__ = ("kind", "memo_keys", "spec")

    def __init__(self, kind: str, spec: str = ""):
        self.kind = kind
        self.spec = spec
        self.memo_keys: list[int] = []


def _dtype_from_state(spec: str, state: Any) -> np.dtype[Any]:
    """The dtype a pickle describes by ``spec`` and its state, if it is one of plain numbers,
    booleans or text.
    """
    if not isinstance(spec, str) or not PLAIN_DTYPE.fullmatch(spec):
        raise Refused(f"an array of type {spec!r} (only numbers, booleans and text are admitted, no Python objects)")
    dtype = np.dtype(spec)
    order, subarray, names, fields, itemsize = state[1:6]
    if (
        subarray is not None
        or names is not None
        or fields is not None
        or itemsize not in (-1, dtype.itemsize)
        or len(state) > 8
    ):
        raise Refused(f"a structured or altered array type ({spec!r})")
    if order not in ("<", ">", "|", "="):
        raise Refused(f"an array type with byte order {order!r}")
    return dtype.newbyteorder(order) if order in "<>" else dtype


def _check_shape(shape: Any) -> tuple[int, ...]:
    if (
        not isinstance(shape, tuple)
        or len(shape) > 32
        or not all(type(side) is int and 0 <= side < 2**48 for side in shape)
    ):
        raise Refused(f"an array of shape {shape!r}")
    return shape


class PlainUnpickler(pickle._Unpickler):  # type: ignore[name-defined,misc]
    """Pickle's reader, less every instruction and every global that plain arrays and containers do
    not need.
    """

    # What pickle's reader keeps and its type stubs do not tell.
    stack: list[Any]
    memo: dict[int, Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    read: Callable[[int], bytes]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {}

    def __init__(self, file: Bounded):
        super().__init__(file, encoding="latin1")  # type: ignore[arg-type]
        # Bytes that arrays may hold in all: a short file must not fill the memory.
        # Protocol 2 writes bytes as text, which counts twice, as the bytes made of it and as the
        # array's.
        self._budget = 2 * file.size + 1024
        self._pending: set[_Pending] = set()
        self._uncalled = (
            0  # builders that were pushed less those that were called: none may stay behind in what is read
        )
        make: dict[str, Callable[..., Any]] = {
            "numpy dtype": self._make_dtype,
            "collections OrderedDict": self._make_ordered,
            "_codecs encode": self._make_bytes,
            "builtins bytes": self._make_no_bytes,
            "builtins bytearray": self._make_bytearray,
            "builtins set": lambda items=(): set(self._hashable(items)),
            "builtins frozenset": lambda items=(): frozenset(self._hashable(items)),
            "builtins tuple": lambda items=(): tuple(
                items
            ),  # how Paddle 2.1 and later write a bare tensor: (name, array)
            "builtins complex": lambda real, imaginary: complex(float(real), float(imaginary)),
        }
        for core in ("numpy.core", "numpy._core"):
            make[f"{core}.multiarray _reconstruct"] = self._make_array
            make[f"{core}.multiarray scalar"] = self._make_scalar
            make[f"{core}.numeric _frombuffer"] = self._make_from_buffer
        self._makers = {name: _Maker(name, function) for name, function in make.items()}

    # -- globals

    def find_class(self, module: str, name: str) -> Any:
        module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
        if (module, name) == ("numpy", "ndarray"):
            return _ARRAY_CLASS
        maker = self._makers.get(f"{module} {name}")
        if maker is None:
            raise Refused(f"{module}.{name}")
        self._uncalled += 1
        return maker

    def _make_dtype(self, spec: Any, *_flags: Any) -> _Pending:
        return self._await(_Pending("dtype", spec))

    def _make_array(self, cls: Any, shape: Any, typecode: Any) -> _Pending:
        if cls != _ARRAY_CLASS or shape != (0,) or typecode not in (b"b", "b"):
            raise Refused("an array subclass")
        return self._await(_Pending("array"))

    def _make_scalar(self, dtype: Any, data: Any) -> Any:
        return self._array((), dtype, False, data)[()]

    def _make_from_buffer(self, data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
        return self._array(shape, dtype, order == "F", data)

    def _make_ordered(self, items: Any = ()) -> OrderedDict[Any, Any]:
        return OrderedDict((self._key(key), value) for key, value in items)

    def _make_bytes(self, text: Any, encoding: Any) -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise Refused(f"codec {encoding!r}")
        return self._spend(text.encode("latin1"))

    def _make_no_bytes(self) -> bytes:
        return b""

    def _make_bytearray(self, data: Any = b"", encoding: Any = "latin-1") -> bytearray:
        return bytearray(self._make_bytes(data, encoding) if isinstance(data, str) else self._spend(bytes(data)))

    # -- values

    def _await(self, pending: _Pending) -> _Pending:
        self._pending.add(pending)
        return pending

    def _spend(self, data: bytes) -> bytes:
        self._budget -= len(data)
        if self._budget < 0:
            raise Refused("more bytes of arrays than the file holds")
        return data

    def _array(self, shape: Any, dtype: Any, fortran: Any, data: Any) -> np.ndarray:
        shape = _check_shape(shape)
        if not isinstance(dtype, np.dtype):
            raise Refused("an array without a type")
        if isinstance(data, Gap):
            if math.prod(shape) * dtype.itemsize != len(data):
                raise Refused(f"an array of shape {shape} and type {dtype} in {len(data)} bytes")
            return np.broadcast_to(np.zeros((), dtype), shape)
        if isinstance(data, str):  # Python 2 wrote bytes as text
            data = data.encode("latin1")
        if not isinstance(data, (bytes, bytearray)):
            raise Refused("an array of Python objects")
        count = math.prod(shape)
        if count * dtype.itemsize != len(data) or (dtype.itemsize == 0 and count > 1_000_000):
            raise Refused(f"an array of shape {shape} and type {dtype} in {len(data)} bytes")
        buffer = bytearray(self._spend(bytes(data)))
        # numpy takes any four bytes for a letter and fails inside the interpreter when the text is
        # looked at.
        letters = np.frombuffer(buffer if dtype.kind == "U" else b"", np.dtype("u4").newbyteorder(dtype.byteorder))
        if letters.size and letters.max() > sys.maxunicode:
            raise Refused("text with letters that do not exist")
        return np.ndarray(shape, dtype, buffer=buffer, order="F" if fortran else "C")

    def _key(self, key: Any) -> Any:
        """A dictionary key or set member: nested tuples are refused, their hashes can be made to
        take for ever.
        """
        flat = key if type(key) is tuple else (key,)
        if not all(isinstance(part, (str, bytes, int, float, bool, type(None), np.generic)) for part in flat):
            raise Refused(f"a {type(key).__name__} as a dictionary key")
        return key

    def _hashable(self, items: Any) -> list[Any]:
        return [self._key(item) for item in items]

    # -- instructions

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        maker = self.stack[-1]
        if not isinstance(maker, _Maker) or type(arguments) is not tuple:
            raise Refused("a call of something that is not a builder of arrays or containers")
        self._uncalled -= 1
        self.stack[-1] = maker.make(*arguments)

    def load_build(self) -> None:
        state = self.stack.pop()
        pending = self.stack[-1]
        if not isinstance(pending, _Pending) or pending not in self._pending or type(state) is not tuple:
            raise Refused("a change of an object's state")
        value: Any
        if pending.kind == "dtype":
            value = _dtype_from_state(pending.spec, state)
        else:
            _version, shape, dtype, fortran, data = state
            value = self._array(shape, dtype, fortran, data)
        self._pending.discard(pending)
        self.stack[-1] = value
        for key in pending.memo_keys:
            self.memo[key] = value

    def _note(self, key: int) -> None:
        if isinstance(self.stack[-1], _Pending):
            self.stack[-1].memo_keys.append(key)
        self.memo[key] = self.stack[-1]

    def _recall(self, key: int) -> None:
        value = self.memo[key]
        if isinstance(value, _Pending):
            raise Refused("an array used before it was filled")
        self._uncalled += isinstance(value, _Maker)
        self.append(value)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._fill(self.stack[-1], [key, value])

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._fill(self.stack[-1], items)

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._fill(self.stack[-1], items)

    def _fill(self, target: Any, items: list[Any]) -> None:
        if not isinstance(target, dict):
            raise Refused(f"items set in a {type(target).__name__}")
        for i in range(0, len(items), 2):
            target[self._key(items[i])] = items[i + 1]

    def load_append(self) -> None:
        value = self.stack.pop()
        self._extend(self.stack[-1], [value])

    def load_appends(self) -> None:
        items = self.pop_mark()
        self._extend(self.stack[-1], items)

    def _extend(self, target: Any, items: list[Any]) -> None:
        if type(target) is not list:
            raise Refused(f"items appended to a {type(target).__name__}")
        target.extend(items)

    def load_additems(self) -> None:
        items = self.pop_mark()
        if type(self.stack[-1]) is not set:
            raise Refused(f"items added to a {type(self.stack[-1]).__name__}")
        self.stack[-1].update(self._hashable(items))

    def load_frozenset(self) -> None:
        items = self.pop_mark()  # changes what self.append is bound to
        self.append(frozenset(self._hashable(items)))

    def load_stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise Refused("a global without a name")
        self.append(self.find_class(module, name))

    def load_bytearray8(self) -> None:
        (length,) = struct.unpack("<Q", self.read(8))
        data = self.read(length)
        self.append(data if isinstance(data, Gap) else bytearray(data))

    def load_refused(self) -> None:
        raise Refused("an instruction that plain data does not need")

    def plain_load(self) -> Any:
        value = self.load()
        if self._pending:
            raise Refused("an array that was announced and never filled")
        if self._uncalled:
            raise Refused("a function as a value")
        return value


def _dispatch() -> dict[int, Callable[[Any], None]]:
    """The instructions a pickle may use: stock ones that build plain values, ours where objects
    could be touched, no others.
    """
    stock = (
        "PROTO FRAME STOP MARK POP POP_MARK NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING "
        "BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 EMPTY_TUPLE TUPLE "
        "TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST EMPTY_DICT EMPTY_SET GLOBAL"
    )
    ours = {
        "REDUCE": PlainUnpickler.load_reduce,
        "BUILD": PlainUnpickler.load_build,
        "SETITEM": PlainUnpickler.load_setitem,
        "SETITEMS": PlainUnpickler.load_setitems,
        "DICT": PlainUnpickler.load_dict,
        "APPEND": PlainUnpickler.load_append,
        "APPENDS": PlainUnpickler.load_appends,
        "ADDITEMS": PlainUnpickler.load_additems,
        "FROZENSET": PlainUnpickler.load_frozenset,
        "STACK_GLOBAL": PlainUnpickler.load_stack_global,
        "BYTEARRAY8": PlainUnpickler.load_bytearray8,
        "MEMOIZE": lambda self: self._note(len(self.memo)),
        "PUT": lambda self: self._note(_index(self.readline())),
        "BINPUT": lambda self: self._note(self.read(1)[0]),
        "LONG_BINPUT": lambda self: self._note(struct.unpack("<I", self.read(4))[0]),
        "GET": lambda self: self._recall(_index(self.readline())),
        "BINGET": lambda self: self._recall(self.read(1)[0]),
        "LONG_BINGET": lambda self: self._recall(struct.unpack("<I", self.read(4))[0]),
    }
    table: dict[int, Callable[[Any], None]] = dict.fromkeys(range(256), PlainUnpickler.load_refused)
    for name in stock.split():
        code = getattr(pickle, name)[0]
        table[code] = pickle._Unpickler.dispatch[code]  # type: ignore[attr-defined]
    table.update({getattr(pickle, name)[0]: function for name, function in ours.items()})
    return table


def _index(line: bytes) -> int:
    index = int(line)
    if index < 0:
        raise Refused("a negative place in memory")
    return index


PlainUnpickler.dispatch = _dispatch()


def read_plain(handle: BinaryIO, size: int, shapes_only: bool = False) -> Any:
    """Read one pickle of ``size`` bytes; Refused when it asks for more than plain data, anything at
    all when it is broken.

    With ``shapes_only``, bytes of large arrays are passed over and the arrays come as zeros that
    take no memory.
    """
    if shapes_only:
        try:
            return PlainUnpickler(Bounded(handle, size, GAP_BYTES)).plain_load()
        except Refused:
            raise
        except (
            Exception
        ):  # the bytes were more than an array's after all, or the file is broken: read whole, it says which
            handle.seek(0)
    return PlainUnpickler(Bounded(handle, size)).plain_load()
