"""TFLite Metadata for tests: a model with labels and preprocessing packaged as `tflite-support` does it."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable

import pytest

from fedclient.model import packaged
from fedclient.model.layout import Scalar, Vector, lay_out
from fedclient.model.writer import ModelWriter


def described(
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
    stats: tuple[float, float] | None = None,
    labels: str = "",
) -> bytes:
    """Return the content of the metadata entry; `labels`: the name of the file with them."""
    options = {0: floats(*mean), 1: floats(*std)}
    # The first process unit is one of another kind.
    units = [{0: Scalar("Uint8", 3), 1: {}}, {0: Scalar("Uint8", 1), 1: options}]
    taken = {0: "image", 4: units if mean else []}
    if stats:
        taken[5] = {0: floats(stats[1]), 1: floats(stats[0])}
    files = [{0: "read.me", 2: Scalar("Int8", 1)}, {0: labels, 2: Scalar("Int8", 2)}] if labels else []
    graph = {2: [taken], 3: [{0: "probability", 6: files}]}
    data = lay_out({0: "a model", 3: [graph]}, 1024)
    return data[:4] + b"M001" + data[8:]


def with_metadata(data: bytes, files: dict[str, bytes] | None = None, **zip_options) -> bytes:
    """Return a model that says nothing else, with an archive behind it when there are `files`."""
    writer = ModelWriter("packaged")
    writer.graph("main")
    writer.metadata(packaged.METADATA_NAME, data)
    return writer.to_bytes() + (archive(files, **zip_options) if files is not None else b"")


def archive(files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as made:
        for name, data in files.items():
            made.writestr(name, data)
    return stream.getvalue()


def floats(*numbers: float) -> Vector:
    return Vector(4, struct.pack(f"<{len(numbers)}f", *numbers))


def on(make: Callable[[], bytes], data: bytes, files: dict[str, bytes]) -> bytes:
    """Return the model that `make` builds with our writer, as it is when it has this metadata."""
    with pytest.MonkeyPatch.context() as patch:
        plain = ModelWriter.to_bytes

        def described_too(writer: ModelWriter) -> bytes:
            writer.metadata(packaged.METADATA_NAME, data)
            return plain(writer)

        patch.setattr(ModelWriter, "to_bytes", described_too)
        return make() + archive(files)
