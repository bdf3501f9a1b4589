from __future__ import annotations

import numpy as np
import pytest

from fedclient.errors import DataError, ModelError
from fedclient.model.schema import Op
from fedclient.model.writer import ModelWriter
from fedclient.runtime.inner import read_output

ROWS = np.arange(12, dtype=np.float32).reshape(3, 4)


def chain(batch: int = 1, others: int = 0) -> tuple[bytes, int, int]:
    """A graph that adds 1 twelve times, and is fed further inputs that it does not look at."""
    model = ModelWriter("chain")
    graph = model.graph("chain")
    x = tensor = graph.input("x", (batch, 4))
    for number in range(others):
        graph.input(f"other{number}", (3,))
    one = graph.constant(np.ones(4, np.float32))
    for _ in range(12):
        tensor = graph.op(Op.ADD, [tensor, one], (batch, 4))
    graph.output("y", tensor)
    return model.to_bytes(), x, tensor


@pytest.mark.parametrize("delegates", [False, True])
@pytest.mark.parametrize(("batch", "others"), [(1, 0), (3, 0), (1, 2)])
def test_rows_go_through_one_by_one(batch, others, delegates):
    model, x, y = chain(batch, others)
    found = read_output(model, y, ROWS, feed=x, delegates=delegates)
    np.testing.assert_array_equal(found, ROWS + 12)


def test_what_does_not_fit_is_a_sentence():
    model, x, y = chain()
    for rows, message in (
        (ROWS[:, :3], r"float32 \[4\], not float32 \[3\]"),
        (ROWS.astype(int), "not int64"),
    ):
        with pytest.raises(DataError, match=message):
            read_output(model, y, rows, feed=x, delegates=False)
    for feed, tensor in ((y, y), (x, x + 2), (x, 10_000)):
        with pytest.raises(ModelError, match="no input of the model, or tensor"):
            read_output(model, tensor, ROWS, feed=feed, delegates=False)
    with pytest.raises(ModelError, match="TFL3"):
        read_output(b"no model", 0, ROWS, feed=0, delegates=False)
