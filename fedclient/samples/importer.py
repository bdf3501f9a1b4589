"""Samples from outside: `.npz` (x, y), `.csv` (last column = label), `package.module:function`.

Everything is read and checked before anything is handed on, so a file is imported whole or not at
all; every error is one sentence with the file and the row.  Labels are whole numbers or words; if any
label of a file is a word, all of them are.  Sizes are bounded before memory is taken, also those that
a compressed file declares; nothing pickled is ever loaded.
"""

from __future__ import annotations

import csv
import re
import sys
import zipfile
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedclient.errors import DataError
from fedclient.limits import MAX_DATASET_BYTES, MAX_TENSOR_RANK
from fedclient.samples.array import DTYPES
from fedclient.samples.label import as_label

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

_Pairs = tuple["NDArray[Any]", "list[int | str]"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """Checked samples: x [N, ...] of a dtype the store keeps, y one label for each."""

    x: NDArray[Any]
    y: tuple[int | str, ...]

    @property
    def label_names(self) -> tuple[str, ...]:
        """Return the words among the labels, in UTF-8 order; none when labels are numbers."""
        return tuple(sorted({label for label in self.y if isinstance(label, str)}, key=str.encode))


def load(data: str) -> Dataset:
    """Read and check what `--data` names.  Raises DataError."""
    suffix = Path(data).suffix.lower()
    if suffix == ".npz":
        x, labels = _npz(_sized(data))
    elif suffix == ".csv":
        x, labels = _csv(_sized(data))
    elif re.fullmatch(r"[\w.]+:\w+", data):
        x, labels = _function(data)
    else:
        raise DataError(f"{data}: unknown kind of data; give FILE.npz, FILE.csv or package.module:function")
    if np.ndim(x) and len(x) != len(labels):
        raise DataError(
            f"{data}: x has {len(x)} rows but y has {len(labels)}; give one label for each sample"
        )
    if not labels:
        raise DataError(f"{data}: there are no samples in it")
    return Dataset(x=_checked(x, data), y=_one_kind(labels, data))


def _sized(data: str) -> Path:
    path = Path(data)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"{data}: {error.strerror}") from error
    if not path.is_file():
        raise DataError(f"{data}: this is not a file")
    _bounded(size, data)
    return path


def _npz(path: Path) -> _Pairs:
    try:
        with zipfile.ZipFile(path) as archive:
            x, y = _member(archive, "x"), _member(archive, "y")
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except Exception as error:  # zipfile and NumPy raise a dozen kinds on damaged files
        raise DataError(f"{path}: not an archive that numpy.savez wrote ({_line(error)})") from error
    return x, _labels(y, str(path))


def _member(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """Read one array of an archive, after its header said that it is numbers or text and fits."""
    try:
        info = archive.getinfo(f"{name}.npy")
    except KeyError as error:
        raise DataError(
            f"there is no array {name} in it; save it with numpy.savez(file, x=..., y=...)"
        ) from error
    numpy_format: Any = np.lib.format  # without types
    with archive.open(info) as file:
        old = numpy_format.read_magic(file) == (1, 0)
        header = numpy_format.read_array_header_1_0 if old else numpy_format.read_array_header_2_0
        shape, _, dtype = header(file)
        declared = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if dtype.hasobject or dtype.kind not in "buifUS":
            raise DataError(
                f"{name} holds {dtype}, which is neither numbers nor text (nothing pickled is loaded)"
            )
        _bounded(max(declared, info.file_size), name)
    with archive.open(info) as file:
        array: NDArray[Any] = numpy_format.read_array(file, allow_pickle=False)
    return array


def _csv(path: Path) -> _Pairs:
    rows: list[NDArray[np.float32]] = []
    labels: list[int | str] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for first, line, cells in _lines(file):
                row, where = _floats(cells[:-1]), f"{path}: line {line}"
                if row is None and first:
                    continue  # the header
                if row is None:
                    raise DataError(f"{where}: a column before the last is not a finite number")
                expected = len(rows[0]) + 1 if rows else max(len(cells), 2)
                if len(cells) != expected:
                    raise DataError(
                        f"{where}: {len(cells)} columns in place of {expected} (the last is the label)"
                    )
                rows.append(row)
                labels.append(_label(cells[-1].strip(), where))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: it cannot be read as a CSV file in UTF-8 ({_line(error)})") from error
    return (np.stack(rows) if rows else np.empty((0, 1), np.float32)), labels


def _lines(file: Iterable[str]) -> Iterator[tuple[bool, int, list[str]]]:
    """Yield (is it the first, line number, cells) of lines that are not blank."""
    reader, first = csv.reader(file, strict=True), True
    for cells in reader:
        if any(cell.strip() for cell in cells):
            yield first, reader.line_num, cells
            first = False


def _floats(cells: list[str]) -> NDArray[np.float32] | None:
    try:
        with np.errstate(over="ignore"):
            row = np.array([float(cell) for cell in cells]).astype(np.float32)
    except ValueError:
        return None
    return row if np.isfinite(row).all() else None


def _function(data: str) -> _Pairs:
    module, _, name = data.partition(":")
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    try:
        function = getattr(import_module(module), name)
    except Exception as error:  # the user's module may do anything
        raise DataError(f"{data}: cannot import it: {type(error).__name__}: {_line(error)}") from error
    finally:
        sys.path.pop(0)
    xs: list[NDArray[Any]] = []
    labels: list[int | str] = []
    try:
        for x, y in function():
            batch, names = _batch(x, y)
            xs.append(batch)
            labels += _labels(names, f"{data}: row {len(labels)}")
            _bounded(sum(part.nbytes for part in xs), data)
        return (np.concatenate(xs) if xs else np.empty((0, 1))), labels
    except DataError:
        raise
    except Exception as error:  # the user's function may do anything
        raise DataError(f"{data}: row {len(labels)}: {type(error).__name__}: {_line(error)}") from error


def _batch(x: object, y: object) -> tuple[NDArray[Any], NDArray[Any]]:
    """Take one sample with its label for a batch of one; y has an axis where x is a batch."""
    one = np.ndim(np.asarray(y)) == 0
    return (np.asarray(x)[None], np.asarray([y])) if one else (np.asarray(x), np.asarray(y))


def _bounded(size: int, where: str) -> None:
    if size > MAX_DATASET_BYTES:
        raise DataError(f"{where}: more than {MAX_DATASET_BYTES >> 20} MiB; split it")


def _label(text: str, where: str) -> int | str:
    """Read a label of a text file: a number if it is one."""
    try:
        number = float(text)
    except ValueError:
        label = as_label(text, f"{where}: the label")
        if label is None:
            raise DataError(f"{where}: the label is missing") from None
        return label
    if not number.is_integer():
        raise DataError(f"{where}: the label is {text}, neither a whole number nor a word")
    return int(number)


def _labels(y: NDArray[Any], where: str) -> list[int | str]:
    """Turn an array of labels [N] or [N, 1] into Python's numbers or words."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or y.dtype.kind not in "iufUS":
        raise DataError(
            f"{where}: y is {y.dtype} of shape {y.shape}; give one whole number or word for each sample"
        )
    if y.dtype.kind == "S":
        y = np.char.decode(y, "utf-8", "replace")
    if y.dtype.kind in "iu":
        return [int(label) for label in y]
    return [_label(str(label), f"{where}: y[{row}]") for row, label in enumerate(y)]


def _one_kind(labels: list[int | str], data: str) -> tuple[int | str, ...]:
    words = any(isinstance(label, str) for label in labels)
    for row, label in enumerate(labels):
        as_label(label, f"{data}: row {row}: the label")
    return tuple(str(label) for label in labels) if words else tuple(labels)


def _checked(x: NDArray[Any], data: str) -> NDArray[Any]:
    """Return x in a dtype the store keeps; raises DataError when a row is no sample."""
    if x.dtype.kind not in "buif" or not 2 <= x.ndim <= MAX_TENSOR_RANK + 1 or not x[:1].size:
        raise DataError(f"{data}: x is {x.dtype} of shape {x.shape}; give numbers, one row for each sample")
    if x.dtype.name not in DTYPES:
        with np.errstate(over="ignore"):
            x = x.astype(np.float32)
    finite = np.isfinite(x).reshape(len(x), -1).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise DataError(
            f"{data}: row {row}: it holds NaN, an infinity or a value beyond float32; leave it out"
        )
    return x


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
