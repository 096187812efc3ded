"""Reading the pickle files of public data sets without executing what they might hold."""

import io
import math
import pickle
import re
import struct
from typing import Any, BinaryIO

import numpy as np

from mebm.errors import DataError


class _DType:
    """Stands for numpy.dtype: a kind of number, and its byte order once its state is known."""

    def __init__(self, code: object = "", *_: object):
        if not isinstance(code, str) or not re.fullmatch(r"[biuf][1248]", code):
            what = "an array of objects" if str(code)[:1] == "O" else f"numbers of the type {str(code)[:20]!r}"
            raise pickle.UnpicklingError(f"{what}, expected numbers")
        self._code, self._order = code, "="

    def __setstate__(self, state: tuple) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "=", "|"):
            raise pickle.UnpicklingError("a byte order that is none")
        self._order = state[1]

    def numpy(self) -> np.dtype:
        return np.dtype(self._order + self._code)


class _Array:
    """Stands for an array until its numbers come."""

    values: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, content = state
        self.values = _from_bytes(content, dtype, shape, "F" if fortran else "C")


class _NdArray:
    """Stands for the class numpy.ndarray, which is named and never called."""

    def __init__(self, *_: object):
        raise pickle.UnpicklingError("an array without content")


def _from_bytes(content: object, dtype: object, shape: object, order: object) -> np.ndarray:
    """An array as large as its content, of which no more is believed."""
    sides = isinstance(shape, tuple) and all(type(side) is int and side >= 0 for side in shape)
    if not isinstance(content, (bytes, bytearray)) or not isinstance(dtype, _DType) or not sides or len(shape) > 8:
        raise pickle.UnpicklingError("an array without plain content")
    kind = dtype.numpy()
    if math.prod(shape) * kind.itemsize != len(content):
        raise pickle.UnpicklingError(f"an array of shape {list(shape)} with {len(content)} bytes")
    return np.frombuffer(content, kind).reshape(shape, order="F" if order == "F" else "C")


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _frombuffer(content: object, dtype: object, shape: object, order: object) -> _Array:
    array = _Array()
    array.values = _from_bytes(content, dtype, shape, order)
    return array


def _scalar(dtype: object, content: object = b"") -> np.generic:
    return _from_bytes(content, dtype, (), "C")[()]


def _encode(text: str, encoding: str) -> bytes:
    """What `_codecs.encode` does for bytes in old pickles, and nothing else."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"the encoding {encoding!r}")
    return text.encode("latin1")


_ALLOWED = {
    ("_codecs", "encode"): _encode,
    ("numpy", "ndarray"): _NdArray,
    ("numpy", "dtype"): _DType,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _frombuffer for core in ("core", "_core")},
}


class _Restricted(pickle._Unpickler):
    """The unpickler written in Python: that in C takes memory for numbers that a file merely names.

    Nothing that a file names is called but the stand-ins above, and nothing takes more memory than the file holds.
    """

    dispatch = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"the name {module}.{name}, which image archives do not hold")
        return _ALLOWED[module, name]

    def load_build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], (_Array, _DType)):
            raise pickle.UnpicklingError("a state for what has none")
        self.stack[-1].__setstate__(state)

    def load_bytearray8(self) -> None:
        (size,) = struct.unpack("<Q", self.read(8))
        content = self.read(size)
        if len(content) < size:
            raise EOFError
        self.append(bytearray(content))

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set(self.stack[-1], [key, value])

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._set(self.stack[-1], items)

    def load_dict(self) -> None:
        items, found = self.pop_mark(), {}
        self._set(found, items)
        self.append(found)

    @staticmethod
    def _set(into: dict, items: list) -> None:
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, (str, bytes, int)):  # the hash of nested tuples can take for ever
                raise pickle.UnpicklingError(f"a key that is a {type(key).__name__}")
            into[key] = value

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict
    for _code in (pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET):
        del dispatch[_code[0]]


def load_batch(file: BinaryIO | bytes, origin: str) -> dict[str, Any]:
    """A pickled dictionary of plain values and numeric arrays, with text keys.

    origin: how messages name the file. Raises DataError for a damaged pickle and for one that names anything but
    numpy arrays: that is refused before it can run.
    """
    stream = io.BytesIO(file) if isinstance(file, bytes) else file
    try:
        record = _Restricted(stream, encoding="latin1").load()
    except MemoryError:
        raise
    except Exception as error:  # unpickling raises many types for a damaged file
        reason = " ".join(str(error).split())[:160]
        raise DataError(
            f"{origin}: is not a readable pickle of arrays (found {reason or 'its end too soon'})"
        ) from error
    if not isinstance(record, dict):
        raise DataError(f"{origin}: holds a {type(record).__name__}, expected a dictionary")
    values = {key: value.values if isinstance(value, _Array) else value for key, value in record.items()}
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in values.items()}
