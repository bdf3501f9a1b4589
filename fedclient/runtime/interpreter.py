"""The TFLite interpreter, whichever is installed: signatures in, arrays out, ModelError otherwise.

tflite-runtime is preferred (6.5 MB against 42 MB), ai-edge-litert serves where it has no wheel.  The
runtime is imported when a model is opened, not before.
"""

from __future__ import annotations

import platform
import re
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fedclient.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

_RUNTIMES: Final = ("tflite_runtime", "ai_edge_litert")
RUNTIME_NAME: Final = next((name for name in _RUNTIMES if find_spec(name)), "")  # "": none is installed
FILE_IDENTIFIER: Final = b"TFL3"
BACKBONES: Final = ("features", "predict")  # the second must not be the first to be called


@dataclass(frozen=True, kw_only=True, slots=True)
class Port:
    """An input or output of a signature; a dimension of -1 is dynamic."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        return f"{self.name!r} ({self.dtype} {list(self.shape)})"


class Signature:
    """One signature of an open model; calling it takes and returns arrays by name."""

    def __init__(self, name: str, runner: Any, forget: Callable[[], None] | None = None) -> None:
        """`forget`: what makes a backbone with a state forget the rows of this call."""
        self.name = name
        self._runner = runner
        self._forget = forget
        self.inputs = _ports(runner.get_input_details())
        self.outputs = _ports(runner.get_output_details())

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run; the results are copies.

        Raises ModelError with what the runtime says.
        """
        contiguous = {name: np.ascontiguousarray(value) for name, value in inputs.items()}
        try:
            outputs = self._runner(**contiguous)
            if self._forget:
                self._forget()
        except (RuntimeError, ValueError, SystemError, MemoryError) as error:
            raise ModelError(f"signature {self.name!r} does not run here: {reason(error)}") from None
        return {name: np.array(value) for name, value in outputs.items()}


def open_signatures(model: bytes, *, threads: int, delegates: bool) -> dict[str, Signature]:
    """Open `model`; without `delegates` the plain kernels run, the same on every runtime.

    Raises ModelError when the bytes are no model, or no runtime works here.
    """
    interpreter = open_interpreter(model, threads=threads, delegates=delegates)
    try:
        has_state = _has_state(interpreter)
        if delegates and not has_state:  # a state would not be reset then
            # tflite-runtime 2.14 gives signatures their delegate here or never: half the time.  It allocates
            # graph 0, which may not be possible yet; then they do without.
            with suppress(RuntimeError, ValueError):
                interpreter.allocate_tensors()
        forget = interpreter.reset_all_variables if has_state else None
        signatures = {
            name: Signature(
                name, interpreter.get_signature_runner(name), forget if name in BACKBONES else None
            )
            for name in interpreter.get_signature_list()
        }
    except (RuntimeError, ValueError, TypeError, SystemError, MemoryError, UnicodeDecodeError) as error:
        raise ModelError(f"{RUNTIME_NAME} cannot read the model: {reason(error)}") from None
    for signature in signatures.values():
        _refuse_scalars(signature)
    return signatures


def open_interpreter(model: bytes, *, threads: int, delegates: bool, keep_all: bool = False) -> Any:
    """Open `model` as the runtime's own object; `keep_all` lets inner tensors be read.

    Raises ModelError when the bytes are no model, or no runtime works here.
    """
    if model[4:8] != FILE_IDENTIFIER:
        raise ModelError("this is not a .tflite file: it does not carry the identifier TFL3")
    module = _runtime()
    kind = module.OpResolverType
    resolver = kind.AUTO if delegates else kind.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    try:
        return module.Interpreter(
            model_content=model,
            num_threads=threads,
            experimental_op_resolver_type=resolver,
            experimental_preserve_all_tensors=keep_all,
        )
    except (RuntimeError, ValueError, TypeError, SystemError, MemoryError) as error:
        raise ModelError(f"{RUNTIME_NAME} cannot read the model: {reason(error)}") from None


def _has_state(interpreter: Any) -> bool:
    """Tell whether there are tensors that keep their value, as those of an LSTM; graph 0 is allocated then.

    Resetting them fails as long as they have no memory, and later needs all of them to have some.
    """
    try:
        interpreter.reset_all_variables()
    except RuntimeError:
        interpreter.allocate_tensors()
        return True
    return False


def flex_ops(model: bytes) -> tuple[str, ...]:
    """Return the names of TensorFlow's own ops (Flex) in the file: strings with their length in front."""
    found = re.finditer(rb"(?=(....)(Flex\w{1,60})\0)", model, re.DOTALL)
    names = {m[2].decode() for m in found if int.from_bytes(m[1], "little") == len(m[2])}
    return tuple(sorted(names))


def reason(error: Exception) -> str:
    """Return an error of the runtime as one short line, without the source files it was built from."""
    text = re.sub(r"\S+\.cc:\d+ ", "", " ".join(str(error).split()))
    return text[:200].rstrip(". ") or type(error).__name__


def _runtime() -> Any:
    if not RUNTIME_NAME:
        raise ModelError("no TFLite runtime is installed: pip install tflite-runtime, or ai-edge-litert")
    if RUNTIME_NAME == "tflite_runtime" and int(np.__version__.split(".")[0]) >= 2:
        raise ModelError("tflite-runtime cannot run with NumPy 2: pip install 'numpy<2'")
    try:
        return import_module(f"{RUNTIME_NAME}.interpreter")
    except (ImportError, OSError) as error:
        raise ModelError(f"{RUNTIME_NAME} does not load on this machine: {reason(error)}") from None


def _refuse_scalars(signature: Signature) -> None:
    """LiteRT 1.4 to 2.3 on aarch64 ends the process when a 0-d input is resized, as every call does."""
    if platform.machine() not in {"aarch64", "arm64"}:
        return
    for port in signature.inputs:
        if not port.shape:
            raise ModelError(
                f"input {port.name!r} of signature {signature.name!r} is a scalar, which crashes TFLite on "
                "this processor: give it shape [1]"
            )


def _ports(details: Mapping[str, Any]) -> tuple[Port, ...]:
    return tuple(
        Port(
            name=name,
            shape=tuple(int(size) for size in detail.get("shape_signature", detail["shape"])),
            dtype=np.dtype(detail["dtype"]),
        )
        for name, detail in details.items()
    )
