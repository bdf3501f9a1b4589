"""Model files of the command line: read without hanging, written without overwriting."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedclient import limits
from fedclient.errors import DataError, ModelError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def read_model(path: Path) -> bytes:
    """Return a file's bytes.

    Raises UsageError when it cannot be read, ModelError when it is no file (a folder, a pipe) or too large.
    """
    try:
        if not path.is_file():
            path.stat()
            raise ModelError(f"{path} is not a file, so it is no model")
        with path.open("rb") as file:
            data = file.read(limits.MAX_MODEL_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    if len(data) > limits.MAX_MODEL_BYTES:
        raise ModelError(f"{path} has more than {limits.MAX_MODEL_BYTES} bytes")
    return data


def check_new(path: Path, *, overwrite: bool) -> None:
    """Say early that `write_new` will fail, before anything long is done.  Raises UsageError."""
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists: choose another name, or --force to overwrite it")
    if not path.parent.is_dir():
        raise UsageError(f"cannot write {path}: it is not in a folder")
    if path.exists() and not path.is_file():  # nor is a device or a pipe replaced by a file
        raise UsageError(f"cannot write {path}: it is {'a folder' if path.is_dir() else 'no file'}")


def write_new(path: Path, data: bytes, *, overwrite: bool) -> None:
    """Write a new file beside its place, and then into it: it is there whole or not at all.

    Raises UsageError.
    """
    check_new(path, overwrite=overwrite)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _move(beside, path, overwrite=overwrite)
    except FileExistsError as error:
        raise UsageError(
            f"{error.filename2 or error.filename} exists: choose another name, or --force to overwrite it"
        ) from None
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
    finally:
        with suppress(OSError):
            beside.unlink()


def _move(beside: Path, path: Path, *, overwrite: bool) -> None:
    if not overwrite:
        try:
            os.link(beside, path)  # unlike a rename, it leaves alone what came there meanwhile
        except FileExistsError:
            raise
        except OSError:  # an SD card with FAT has no links
            if os.path.lexists(path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        else:
            return
    beside.replace(path)


def read_samples(data: str | None) -> NDArray[Any] | None:
    """Return the samples that `--data` names, None without it.  Raises DataError."""
    if data is None:
        return None
    from fedclient.samples import importer  # noqa: PLC0415 - NumPy is for this command only

    return importer.load(data).x


def read_labels(text: str | None, classes: int) -> tuple[str, ...]:
    """Return the labels that `--labels` gives: a,b,c, or a file with one on each line; () without it.

    Raises UsageError when they are not one for each class.
    """
    if text is None:
        return ()
    from fedclient.model.labels import checked_labels, label_lines  # noqa: PLC0415 - ditto

    path = Path(text)
    try:
        if "," not in text:
            if not path.is_file():
                raise UsageError(
                    f"there is no file {text}: --labels takes {classes} names, a,b,c or a file of lines"
                )
            with path.open("rb") as file:
                labels = label_lines(file.read(limits.MAX_PACKAGED_BYTES), text)
        else:
            labels = checked_labels([label.strip() for label in text.split(",")], "--labels")
    except DataError as error:
        raise UsageError(str(error)) from None
    except OSError as error:
        raise UsageError(f"cannot read --labels {text}: {error.strerror}") from None
    if len(labels) != classes:
        raise UsageError(f"--labels has {len(labels)} names, the head has {classes} classes")
    return labels
