"""Read one tensor of a model, as it is when it is computed, for each of some rows.

A runtime reuses the memory of an inner tensor, so that reading it gives other numbers without a word.  With
`experimental_preserve_all_tensors` LiteRT keeps it; tflite-runtime 2.14 does not where the next operator
works in place.  Outputs are kept by both: `expose` makes the tensor one, in four bytes of the file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fedclient.errors import DataError, ModelError
from fedclient.runtime.interpreter import open_interpreter, reason

if TYPE_CHECKING:
    from numpy.typing import NDArray


def read_output(model: bytes, tensor: int, rows: NDArray[Any], *, feed: int, delegates: bool) -> NDArray[Any]:
    """Return output number `tensor` of graph 0 for each of `rows`, fed to input number `feed`.

    Each row finds the model as it was loaded: variables are reset before it.  Other inputs are zeros.

    Raises ModelError with what the runtime says, DataError for rows that do not fit.
    """
    interpreter = open_interpreter(model, threads=1, delegates=delegates, keep_all=not delegates)
    try:
        interpreter.allocate_tensors()
        inputs = {detail["index"]: detail for detail in interpreter.get_input_details()}
        if feed not in inputs or tensor not in {one["index"] for one in interpreter.get_output_details()}:
            raise ModelError(f"tensor {feed} is no input of the model, or tensor {tensor} no output")
        return np.stack([_one(interpreter, inputs, tensor, row, feed) for row in rows])
    except (RuntimeError, ValueError, TypeError, IndexError, SystemError, MemoryError) as error:
        raise ModelError(f"the model does not run here: {reason(error)}") from None


def _one(interpreter: Any, inputs: dict[int, Any], tensor: int, row: NDArray[Any], feed: int) -> NDArray[Any]:
    interpreter.reset_all_variables()
    for index, detail in inputs.items():
        shape, dtype = tuple(map(int, detail["shape"])), np.dtype(detail["dtype"])
        if index == feed and (row.shape != shape[1:] or row.dtype != dtype):
            raise DataError(f"the model takes {dtype} {list(shape[1:])}, not {row.dtype} {list(row.shape)}")
        # A batch that the file fixes is filled up with the same row.
        value = np.broadcast_to(row, shape) if index == feed else np.zeros(shape, dtype)
        interpreter.set_tensor(index, np.ascontiguousarray(value))
    interpreter.invoke()
    found: NDArray[Any] = np.array(interpreter.get_tensor(tensor))[0]
    return found
