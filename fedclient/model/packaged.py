"""What a .tflite file says about its own use: labels of the classes, preprocessing of the samples.  Pure.

TFLite Metadata (`metadata_schema.fbs`, identifier "M001") is a FlatBuffer in the file's metadata entry
`TFLITE_METADATA`; the files that it names stand in a ZIP archive behind the model, in the same file.

    normalisation (raw - mean) / std   is here   raw * scale + offset: scale = 1 / std, offset = -mean / std

Only the first input and the first output are read: a backbone has no others.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from fedclient import limits
from fedclient.errors import DataError, ModelError
from fedclient.model.labels import label_lines
from fedclient.model.reader import Table

METADATA_NAME: Final = "TFLITE_METADATA"
_IDENTIFIER: Final = b"M001"
_ASKED: Final = 16  # process units and associated files that are looked at; one of each is usual
_END_OF_ZIP: Final = b"PK\x05\x06"
_END_OF_ZIP_BYTES: Final = 22
_ZIP64_LOCATOR: Final = b"PK\x06\x07"
_ENCRYPTED: Final = 1


class _Model(IntEnum):
    """`table ModelMetadata`."""

    SUBGRAPHS = 3


class _SubGraph(IntEnum):
    """`table SubGraphMetadata`."""

    INPUTS = 2
    OUTPUTS = 3


class _Tensor(IntEnum):
    """`table TensorMetadata`."""

    PROCESS_UNITS = 4
    STATS = 5
    FILES = 6


class _Unit(IntEnum):
    """`table ProcessUnit`: a union, so its type and then its value."""

    TYPE = 0
    OPTIONS = 1


class _Normalization(IntEnum):
    """`table NormalizationOptions`."""

    MEAN = 0
    STD = 1


class _Stats(IntEnum):
    """`table Stats`."""

    MAX = 0
    MIN = 1


class _File(IntEnum):
    """`table AssociatedFile`."""

    NAME = 0
    TYPE = 2


_NORMALIZATION: Final = 1  # in the union ProcessUnitOptions
_AXIS_LABELS: Final = 2  # in the enum AssociatedFileType


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocessing:
    """What the app does to a raw value: `raw * scale + offset`, one number each or one for each channel."""

    scale: tuple[float, ...]
    offset: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Packaged:
    """What was found; `labels` are those of the old head, () where the file has none."""

    preprocessing: Preprocessing | None = None
    input_range: tuple[float, float] | None = None  # of values as the model takes them
    labels: tuple[str, ...] = ()


def read_packaged(model: bytes, metadata: Mapping[str, bytes]) -> Packaged:
    """Read what `model`, a whole file with these `metadata` entries, says about its use.

    Raises ModelError when the metadata or the archive is damaged.
    """
    data = metadata.get(METADATA_NAME, b"")
    if not data:
        return Packaged()
    if len(data) > limits.MAX_PACKAGED_BYTES or data[4:8] != _IDENTIFIER:
        raise _damaged("it is no TFLite Metadata of version M001, or too large")
    graphs = Table.root(data).tables(_Model.SUBGRAPHS)
    if not graphs:
        return Packaged()
    first_input = next(iter(graphs[0].tables(_SubGraph.INPUTS)), None)
    first_output = next(iter(graphs[0].tables(_SubGraph.OUTPUTS)), None)
    return Packaged(
        preprocessing=_preprocessing(first_input) if first_input else None,
        input_range=_range(first_input) if first_input else None,
        labels=_labels(model, first_output) if first_output else (),
    )


def _preprocessing(tensor: Table) -> Preprocessing | None:
    for unit in tensor.tables(_Tensor.PROCESS_UNITS)[:_ASKED]:
        options = unit.table(_Unit.OPTIONS)
        if unit.byte(_Unit.TYPE) == _NORMALIZATION and options:
            mean, std = _floats(options, _Normalization.MEAN), _floats(options, _Normalization.STD)
            size = max(len(mean), len(std))
            if (
                not mean
                or not std
                or {len(mean), len(std)} - {1, size}
                or not all(map(math.isfinite, mean + std))
            ):
                raise _damaged("mean and std of its normalisation are not the same number of finite numbers")
            if not all(std):
                raise _damaged("a std of its normalisation is 0")
            pairs = list(zip(mean * (size // len(mean)), std * (size // len(std)), strict=True))
            return Preprocessing(
                scale=tuple(1 / width for _, width in pairs),
                offset=tuple(-middle / width for middle, width in pairs),
            )
    return None


def _range(tensor: Table) -> tuple[float, float] | None:
    stats = tensor.table(_Tensor.STATS)
    if stats is None:
        return None
    low, high = _floats(stats, _Stats.MIN), _floats(stats, _Stats.MAX)
    if not low or not high or not all(map(math.isfinite, low + high)) or min(low) >= max(high):
        return None  # these are a remark, nothing is computed with them
    return min(low), max(high)


def _labels(model: bytes, tensor: Table) -> tuple[str, ...]:
    for file in tensor.tables(_Tensor.FILES)[:_ASKED]:
        if file.byte(_File.TYPE) == _AXIS_LABELS:
            name = file.text(_File.NAME).decode(errors="replace")
            try:
                return label_lines(_member(model, name), name)
            except DataError:
                return ()  # of the old head: names that a manifest cannot carry are no loss
    return ()


def _member(model: bytes, name: str) -> bytes:
    """Return a file of the archive behind the model."""
    _check_archive(model)
    try:
        with zipfile.ZipFile(io.BytesIO(model)) as archive:
            info = archive.getinfo(name)
            plain = info.compress_type in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
            if not plain or info.flag_bits & _ENCRYPTED or info.file_size > limits.MAX_PACKAGED_BYTES:
                raise _damaged(f"its file {name[:80]!r} is encrypted, too large, or packed in an unusual way")
            with archive.open(info) as file:
                return file.read(limits.MAX_PACKAGED_BYTES)
    except KeyError:
        raise _damaged(f"its file {name[:80]!r} is not there") from None
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        EOFError,
        NotImplementedError,
        OSError,
        RuntimeError,
        ValueError,
    ):
        raise _damaged(f"the archive with {name[:80]!r} does not open") from None


def _check_archive(model: bytes) -> None:
    """Refuse an archive whose directory alone would keep `zipfile` busy."""
    end = model.rfind(_END_OF_ZIP, max(0, len(model) - _END_OF_ZIP_BYTES - 0xFFFF))
    if end < 0 or end + _END_OF_ZIP_BYTES > len(model):
        raise _damaged("the archive of its files is not there")
    (directory_bytes,) = struct.unpack_from("<I", model, end + 12)
    if directory_bytes > limits.MAX_PACKAGED_BYTES or _ZIP64_LOCATOR in model[max(0, end - 20) : end]:
        raise _damaged("the archive of its files is too large")


def _floats(table: Table, slot: int) -> tuple[float, ...]:
    data = table.vector(slot, 4)
    return struct.unpack(f"<{len(data) // 4}f", data)


def _damaged(what: str) -> ModelError:
    return ModelError(f"the metadata {METADATA_NAME!r} in the file is damaged: {what}")
