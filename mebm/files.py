"""Reading and writing files safely.

Writing is atomic: under a temporary name, then renamed. A job writes only files of its own. Files that others wrote are
read within bounds of size and depth, checked for their shape, and never executed.
"""

import hashlib
import json
import os
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, BinaryIO

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from mebm.errors import CheckpointError, DataError, MetricError

if TYPE_CHECKING:
    import numpy as np

UNPACKED = 2**30  # bytes to which the compressed parts of an archive may grow
TEXT = 2**26  # bytes of a text file that is read as a whole
DEPTH = 100  # levels of nesting
EXPANDED = 10**6  # characters that the aliases of a YAML text may add to it


AGAIN = "give another file, or make it again with its stage"


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it over `path` if the block succeeds, remove it if not.

    The temporary name keeps the suffix, since image and table writers choose their format by it.
    Raises DataError where the folder cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if claim := _CLAIM.get():
            claim.note(path, temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror or error}); check the folder's permissions and free space"
        ) from error
    finally:
        with suppress(OSError):  # where nothing can be written, nothing was
            temporary.unlink()


@contextmanager
def owning(folder: str | Path, job: str, names: Iterable[str]) -> Iterator[None]:
    """A context for the work of a job that makes the files `names`, paths inside `folder`. No other file is touched.

    Raises DataError at once if the folder cannot be written, or if one of them exists and was not left by an earlier
    command of the same job. At the end, files that an earlier command left and this one did not make are removed. A job
    recognises its own files by their hashes, in the file `.mebm.<job>` of the folder; a file that was changed since is
    no longer its own.
    """
    require_writable(folder)
    claim = _Claim(folder, job)
    claim.check(names)
    token = _CLAIM.set(claim)
    try:
        yield
    finally:
        _CLAIM.reset(token)
    claim.settle()


def require_writable(folder: str | Path) -> None:
    """Raises DataError where a folder cannot be made or written, before work that would be lost. Makes nothing."""
    there = Path(os.path.abspath(folder))
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise DataError(f"{there}: is a file, expected a folder; give another as --out")
    if not os.access(there, os.W_OK | os.X_OK, effective_ids=True):
        raise DataError(f"{folder}: cannot be written, since {there} is not writable; give another folder as --out")


class _Claim:
    """The files in a folder that a job has made: their hashes by name, noted before each file takes its name."""

    def __init__(self, folder: str | Path, job: str):
        self.folder, self._job = Path(os.path.abspath(folder)), job
        self._record = self.folder / f".mebm.{job.replace(' ', '.')}"
        self._made: dict[str, set[str]] = {}
        self._now: dict[str, str] = {}  # made by this command
        lines = self._record.read_bytes().decode(errors="replace").splitlines() if self._record.is_file() else []
        for digest_, _, name in (line.partition("  ") for line in lines):
            if name and not Path(name).is_absolute() and ".." not in Path(name).parts:  # as a foreign record could say
                self._made.setdefault(name, set()).add(digest_)

    def check(self, names: Iterable[str]) -> None:
        """Raises DataError where one of the files is there and is not the job's own."""
        foreign = [name for name in names if os.path.lexists(self.folder / name) and not self._is_own(name)]
        if foreign:
            more = f" (nor {len(foreign) - 1} others)" if len(foreign) > 1 else ""
            raise DataError(
                f"{self.folder / foreign[0]}: already exists, and `{self._job}` did not make it as it is now{more}; "
                "move it away, or give another folder as --out"
            )

    def note(self, path: Path, temporary: Path) -> None:
        """Before a temporary file takes a name: that this content is the job's. Raises DataError as `check`."""
        path = Path(os.path.abspath(path))
        if not path.is_relative_to(self.folder) or path == self._record:
            return
        name = path.relative_to(self.folder).as_posix()
        if name not in self._now:
            self.check([name])
        self._now[name] = sha256(temporary)
        with open(self._record, "a", encoding="utf-8") as file:
            file.write(f"{self._now[name]}  {name}\n")

    def settle(self) -> None:
        """Remove what earlier commands made and this one did not, and keep the record short."""
        for name in self._made:
            if name not in self._now and self._is_own(name):
                (self.folder / name).unlink()
        if self._now:
            write_text(self._record, "".join(f"{digest_}  {name}\n" for name, digest_ in sorted(self._now.items())))

    def _is_own(self, name: str) -> bool:
        path = self.folder / name
        known = self._made.get(name, set())
        return bool(known) and path.is_file() and not path.is_symlink() and sha256(path) in known


_CLAIM: ContextVar[_Claim | None] = ContextVar("claim", default=None)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, record: dict) -> None:
    """Write a record as JSON with a stable layout. Raises MetricError for NaN or infinity, which JSON lacks."""
    try:
        text = json.dumps(record, indent=2, allow_nan=False)
    except ValueError as error:
        raise MetricError(
            f"{path}: a value is not finite, so nothing was written; write null and a status instead"
        ) from error
    write_text(path, text + "\n")


class Record(BaseModel):
    """What a JSON file must hold, beside other keys: no conversion between types, no infinity."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


def read_text(path: str | Path) -> str:
    """Read UTF-8 text. Raises DataError where the file is missing, too large, or other than text."""
    size = require(path).stat().st_size
    if size > TEXT:
        raise DataError(f"{path}: has {size} bytes, more than the {TEXT} that are read of a text file; {AGAIN}")
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start}); {AGAIN}") from error


def read_json(path: str | Path, model: type[BaseModel] | None = None) -> dict:
    """Read a JSON record. model: what it must look like; the record itself is returned, with all its keys.

    Raises DataError where the file is missing, is not JSON (which has no NaN), holds no mapping, or is not as `model`
    says.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"it holds {constant}")

    text = read_text(path)
    try:
        record = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise DataError(f"{path}: is not valid JSON ({reason}); {AGAIN}") from error
    if not isinstance(record, dict):
        raise DataError(f"{path}: holds a {type(record).__name__}, expected a mapping of keys to values; {AGAIN}")
    if _depth(record) > DEPTH:
        raise DataError(f"{path}: is nested more than {DEPTH} levels deep; {AGAIN}")
    try:
        if model is not None:
            model.model_validate(record)
    except ValidationError as error:
        raise DataError(f"{path}: {explained(error)}; {AGAIN}") from error
    return record


def _depth(value: Any) -> int:
    """Levels of nesting in what was read from JSON."""
    level, depth = [value], 0
    while level:
        inner = [item for item in level if isinstance(item, (dict, list))]
        level = [part for item in inner for part in (item.values() if isinstance(item, dict) else item)]
        depth += 1
    return depth


def explained(error: ValidationError) -> str:
    """The first thing that is wrong with a record: its key, what was found, what is expected."""
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"])) or "the record"
    if first["type"] == "missing":
        return f"lacks the key {key}"
    words = f"{first['msg'][0].lower()}{first['msg'][1:]}"
    return f"{key} is {type(first['input']).__name__} {str(first['input'])[:40]!r}: {words}"


class BoundedLoader(yaml.SafeLoader):
    """PyYAML's safe loader with an end: aliases may not multiply a text, nor refer to themselves; nesting has a limit.

    Raises yaml.YAMLError for anything that cannot be read.
    """

    def __init__(self, stream: str | bytes):
        super().__init__(stream)
        self._length = len(stream)

    def get_single_data(self) -> Any:
        if self._length > TEXT // 4:
            raise yaml.YAMLError(f"{self._length} characters are more than the {TEXT // 4} that are read")
        try:
            return super().get_single_data()
        except RecursionError as error:
            raise yaml.YAMLError(f"it is nested more than {DEPTH} levels deep") from error
        except (ValueError, KeyError, AttributeError, TypeError, OverflowError) as error:  # a tag on another value
            raise yaml.YAMLError(f"a value does not fit its type ({str(error)[:80]})") from error

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            self._measure(node, {})
        return node

    def _measure(self, node: yaml.Node, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
        """Characters that a node stands for, its aliases written out, and how deep it is."""
        if id(node) in known:
            if known[id(node)] is None:
                raise yaml.composer.ComposerError(None, None, "an alias refers to itself", node.start_mark)
            return known[id(node)]
        known[id(node)] = None
        if isinstance(node, yaml.MappingNode):
            parts = [self._measure(part, known) for pair in node.value for part in pair]
        else:
            parts = [self._measure(part, known) for part in node.value] if isinstance(node.value, list) else []
        size = 1 + (0 if isinstance(node.value, list) else len(node.value)) + sum(size for size, _ in parts)
        depth = 1 + max((depth for _, depth in parts), default=0)
        if size > self._length + EXPANDED:
            raise yaml.composer.ComposerError(None, None, "its aliases multiply too much", node.start_mark)
        if depth > DEPTH:
            raise yaml.composer.ComposerError(None, None, f"nested more than {DEPTH} levels deep", node.start_mark)
        known[id(node)] = size, depth
        return size, depth


def read_yaml(path: str | Path) -> Any:
    """Read YAML within bounds. Raises DataError where the file is missing or cannot be read."""
    try:
        return yaml.load(read_text(path), Loader=BoundedLoader)
    except yaml.YAMLError as error:
        raise DataError(f"{path}: is not valid YAML ({' '.join(str(error).split())}); {AGAIN}") from error


def write_npz(path: str | Path, **arrays: "np.ndarray") -> None:
    """Write arrays to an uncompressed .npz atomically. Equal arrays give equal bytes."""
    import numpy as np  # here and below, so that commands without arrays start without it

    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def read_npz(path: str | Path, *names: str, optional: tuple[str, ...] = ()) -> dict[str, "np.ndarray"]:
    """Read the named arrays of an .npz without executing pickled code.

    Returns a dict with every name of `names`, and those of `optional` that are present. Raises DataError where the
    file is missing, truncated, or lacks an array.
    """
    with open(require(path), "rb") as file:
        return arrays_in(file, str(path), names, optional)


def arrays_in(
    file: BinaryIO, origin: str, names: Iterable[str], optional: Iterable[str] = ()
) -> dict[str, "np.ndarray"]:
    """The same of an open file. origin: how messages name it."""
    try:
        with zipfile.ZipFile(file) as archive:
            found = {name.removesuffix(".npy"): archive.getinfo(name) for name in archive.namelist()}
            if missing := [name for name in names if name not in found]:
                raise DataError(
                    f"{origin}: lacks the array {missing[0]!r} (found: {', '.join(found) or 'none'}); {AGAIN}"
                )
            members = {name: found[name] for name in (*names, *optional) if name in found}
            check_unpacked(list(members.values()), origin)
            return {name: _array(archive, member, f"{origin}: {name}") for name, member in members.items()}
    except (DataError, MemoryError):
        raise
    except Exception as error:  # numpy and zipfile raise many types for a damaged file
        raise DataError(f"{origin}: is not a readable .npz archive ({unreadable(error)}); {AGAIN}") from error


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, origin: str) -> "np.ndarray":
    """An array whose size is what its header says: numpy would ask for memory before it finds the data missing."""
    import numpy as np

    with archive.open(member) as file:
        form = np.lib.format
        headers = {(1, 0): form.read_array_header_1_0, (2, 0): form.read_array_header_2_0}  # others name fields
        shape, _, dtype = headers[form.read_magic(file)](file)
        if dtype.hasobject:
            raise DataError(f"{origin} is not a readable array (it holds objects, which could run code); {AGAIN}")
        declared, there = int(np.prod([1, *shape], dtype=object)) * dtype.itemsize, member.file_size - file.tell()
        if declared != there:
            raise DataError(f"{origin} has {there} bytes, but {list(shape)} {dtype} takes {declared}; {AGAIN}")
    with archive.open(member) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def check_unpacked(members: list[zipfile.ZipInfo], origin: str) -> None:
    """Raises DataError where the compressed members of a zip archive say that they grow beyond the bound."""
    total = sum(member.file_size for member in members if member.compress_type != zipfile.ZIP_STORED)
    if total > UNPACKED:
        raise DataError(f"{origin}: would unpack to {total} bytes, more than the {UNPACKED} that are read; {AGAIN}")


def numbers(path: str | Path, name: str, array: "np.ndarray", shape: tuple[int | None, ...]) -> "np.ndarray":
    """An array of a file as float64. shape: what it must be, None for a side of any length.

    Raises DataError for anything but finite real numbers of that shape.
    """
    import numpy as np

    kind, sides = array.dtype.kind, ", ".join("N" if side is None else str(side) for side in shape)
    fits = len(shape) == array.ndim and all(want in (None, side) for want, side in zip(shape, array.shape, strict=True))
    if kind not in "fiu" or not fits:
        raise DataError(f"{path}: {name} is {array.dtype} {list(array.shape)}, expected numbers [{sides}]; {AGAIN}")
    values = array.astype(np.float64)
    if not np.isfinite(values).all():
        raise DataError(f"{path}: {name} holds values that are not finite; {AGAIN}")
    return values


def read_torch(path: str | Path, what: str, advice: str) -> Any:
    """What a file of torch.save holds: tensors and plain values, never executed.

    what: the file in words. Raises CheckpointError, with the advice, for one that is damaged or of another format, and
    by its name for an object of a class, which is not loaded.
    """
    import torch

    require(path)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                check_unpacked(archive.infolist(), str(path))
        with warnings.catch_warnings(action="ignore"):  # of other pickle protocols, in several lines
            return torch.load(path, map_location="cpu", weights_only=True)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # torch, zipfile and pickle raise many types for a damaged file
        if name := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise CheckpointError(
                f"{path}: holds an object of class {name[1]}, which is not loaded because that could run code; save "
                "the file again with tensors and plain values only"
            ) from error
        raise CheckpointError(f"{path}: is not a readable {what} ({unreadable(error)}); {advice}") from error


def check_state(state: Any, expected: dict) -> None:
    """Compare a state dict that was read from a file with that of a network, which may be on the meta device.

    Raises CheckpointError, without the file's name, for a parameter that is missing, too many, no tensor, of another
    shape or kind of number, or larger than the data that the file holds for it.
    """
    from torch import Tensor

    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise CheckpointError(f"its weights are {type(state).__name__}, expected tensors by name")
    if missing := [key for key in expected if key not in state]:
        raise CheckpointError(f"lacks the parameter {missing[0]} ({len(missing)} in all)")
    if extra := [key for key in state if key not in expected]:
        raise CheckpointError(f"has a parameter too many, {extra[0][:80]}")
    for key, like in expected.items():
        value = state[key]
        if not isinstance(like, Tensor):
            if type(value) is not type(like):
                raise CheckpointError(f"{key} is {type(value).__name__}, expected {type(like).__name__}")
            continue
        if not is_whole(value):
            raise CheckpointError(f"{key} is {type(value).__name__}, expected a tensor with all its values")
        if value.shape != like.shape or value.is_floating_point() != like.is_floating_point():
            raise CheckpointError(
                f"{key} is {value.dtype} {list(value.shape)}, expected {like.dtype} {list(like.shape)}".replace(
                    "torch.", ""
                )
            )


def is_whole(value: Any) -> bool:
    """Whether it is a dense real tensor that has a place in memory for every value: a file can say that one is all."""
    from torch import Tensor, strided

    if not isinstance(value, Tensor) or value.layout is not strided or value.is_complex() or value.is_quantized:
        return False
    return value.device.type != "meta" and value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def unreadable(error: Exception) -> str:
    """Why a file could not be read, in words of ours: libraries guess at other causes, such as their own versions."""
    return getattr(error, "strerror", None) or "it is damaged, or not a file of this format"


def require(path: str | Path) -> Path:
    """Return `path` if it is a file. Raises DataError naming it otherwise."""
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path}: is a folder, expected a file")
    if not path.is_file():
        raise DataError(f"{path}: no such file; run the stage that makes it (`dvc repro` runs all that are needed)")
    return path


def refuse_links(paths: Iterable[str]) -> None:
    """Raises DataError where one of these outputs, relative to the project, lies behind a symbolic link.

    DVC runs a job whose outputs do, and then refuses to record them, so days of training would be lost.
    """
    for folder in {parent for path in paths for parent in PurePath(path).parents}:
        if Path(folder).is_symlink():
            raise DataError(
                f"{folder}: is a link, and DVC records nothing that lies behind one; make it a folder (docs/runs.md, "
                "Disks, paths and homes, says how to use another disk)"
            )


def digest(path: str | Path, algorithm: str) -> str:
    """Hexadecimal digest of a file's contents by a named algorithm of hashlib."""
    with open(require(path), "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's contents."""
    return digest(path, "sha256")
