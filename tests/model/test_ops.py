from __future__ import annotations

import numpy as np
import pytest

from fedclient.model import ops
from fedclient.model.schema import TensorType
from fedclient.model.writer import ModelWriter
from fedclient.runtime.interpreter import open_signatures


def run(build, **inputs):
    """Outputs of a graph `f` that `build` writes over its inputs."""
    model = ModelWriter("test")
    graph = model.graph("f")
    tensors = {name: graph.input(name, value.shape, value.dtype.type) for name, value in inputs.items()}
    for name, tensor in build(graph, **tensors).items():
        graph.output(name, tensor)
    return open_signatures(model.to_bytes(), threads=1, delegates=False)["f"](inputs)


def test_arithmetic_is_that_of_numpy():
    x, y = (np.random.default_rng(seed).uniform(1, 2, (3, 4)).astype(np.float32) for seed in (0, 1))
    shape = x.shape
    found = run(
        lambda graph, x, y: {
            "add": ops.add(graph, x, y, shape),
            "subtract": ops.subtract(graph, x, y, shape),
            "multiply": ops.multiply(graph, x, y, shape),
            "divide": ops.divide(graph, x, y, shape),
            "root": ops.root(graph, x, shape),
            "at_least": ops.at_least(graph, x, 1.5, shape),
            "total": ops.total(graph, x, 0, (4,)),
            "times_number": ops.multiply(graph, x, ops.number(graph, 3), shape),
            "filled": ops.filled(graph, 7, (2, 5)),
        },
        x=x,
        y=y,
    )
    wanted = {
        "add": x + y,
        "subtract": x - y,
        "multiply": x * y,
        "divide": x / y,
        "root": np.sqrt(x),
        "at_least": np.maximum(x, 1.5),
        "total": x.sum(axis=0),
        "times_number": x * 3,
        "filled": np.full((2, 5), 7),
    }
    assert found.keys() == wanted.keys()
    assert all(np.allclose(found[name], value, rtol=1e-6) for name, value in wanted.items())


@pytest.mark.parametrize("alike", [True, False])
def test_products_are_those_of_numpy_either_way(alike):
    rng = np.random.default_rng(0)
    x, y, kernel = (rng.normal(size=size).astype(np.float32) for size in ((5, 4), (5, 3), (3, 4)))

    def build(graph, x, y, kernel):
        products = ops.Products(graph, alike=alike)
        return {
            "forward": products.rows_by_transposed(x, kernel, (3, 4)),
            "below": products.rows_by(y, kernel, (3, 4)),
            "slope": products.transposed_by(y, x, (3, 4)),
        }

    found = run(build, x=x, y=y, kernel=kernel)
    wanted = {"forward": x @ kernel.T, "below": y @ kernel, "slope": y.T @ x}
    assert all(np.allclose(found[name], value, rtol=1e-5, atol=1e-5) for name, value in wanted.items())


def test_integers_become_floats():
    found = run(
        lambda graph, x: {"y": ops.as_float(graph, x, TensorType.INT32, (3,))},
        x=np.array([1, -2, 3], np.int32),
    )
    assert (found["y"].dtype, found["y"].tolist()) == (np.float32, [1, -2, 3])


def test_variables_are_shared_by_the_graphs_of_a_file_and_set_up_once():
    model = ModelWriter("test")
    initial = model.graph("init", signature=False)
    ops.assign(initial, "v", ops.filled(initial, 5, (2,)))
    get, put = model.graph("get"), model.graph("put")
    for graph in (get, put):
        ops.call_once(graph, initial)
    get.output("v", ops.read(get, "v", (2,)))
    ops.assign(put, "v", put.input("v", (2,)))
    run = open_signatures(model.to_bytes(), threads=1, delegates=False)
    assert run["get"]({})["v"].tolist() == [5, 5]
    run["put"]({"v": np.array([1, 2], np.float32)})
    assert run["get"]({})["v"].tolist() == [1, 2]
