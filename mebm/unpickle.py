"""Reading the pickle files of public data sets without executing what they might hold."""

import io
import pickle
from typing import Any, BinaryIO

import numpy as np

from mebm.errors import DataError

_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,
    ("numpy.core.multiarray", "scalar"): np._core.multiarray.scalar,
    ("numpy._core.multiarray", "scalar"): np._core.multiarray.scalar,
    ("numpy.core.numeric", "_frombuffer"): np._core.numeric._frombuffer,
    ("numpy._core.numeric", "_frombuffer"): np._core.numeric._frombuffer,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


def _encode(text: str, encoding: str) -> bytes:
    """What `_codecs.encode` does for bytes in old pickles, and nothing else."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"the encoding {encoding!r}")
    return text.encode("latin1")


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _encode
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"the name {module}.{name}, which image archives do not hold")
        return _ALLOWED[module, name]


def load_batch(file: BinaryIO | bytes, origin: str) -> dict[str, Any]:
    """A pickled dictionary of plain values and numeric arrays, with text keys.

    origin: how messages name the file. Raises DataError for a damaged pickle and for one that names anything but
    numpy arrays: that is refused before it can run.
    """
    stream = io.BytesIO(file) if isinstance(file, bytes) else file
    try:
        record = _Restricted(stream, encoding="latin1").load()
    except Exception as error:  # unpickling raises many types for a damaged file
        raise DataError(
            f"{origin}: is not a readable pickle of arrays (found {error or 'its end too soon'})"
        ) from error
    if not isinstance(record, dict):
        raise DataError(f"{origin}: holds a {type(record).__name__}, expected a dictionary")
    for key, value in record.items():
        if isinstance(value, np.ndarray) and value.dtype.hasobject:
            raise DataError(f"{origin}: {key} is an array of objects, expected numbers")
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in record.items()}
