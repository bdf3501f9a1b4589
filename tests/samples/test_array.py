from __future__ import annotations

import subprocess
import sys
from array import array

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedclient.errors import DataError
from fedclient.samples import array as module
from fedclient.samples.array import DTYPES, as_array


def back(stored) -> np.ndarray:
    return np.frombuffer(stored.data, np.dtype(stored.dtype).newbyteorder("<")).reshape(stored.shape)


@given(
    st.sampled_from(sorted(DTYPES)).flatmap(
        lambda dtype: arrays.arrays(
            dtype,
            arrays.array_shapes(max_dims=4, max_side=5),
            elements={"allow_nan": False, "allow_infinity": False} if dtype == "float32" else None,
        )
    ),
    st.sampled_from(["C", "F"]),
    st.sampled_from(["<", ">"]),
)
def test_an_ndarray_of_a_stored_dtype_comes_back_bit_for_bit(x, order, endian):
    stored = as_array(np.asarray(x.astype(x.dtype.newbyteorder(endian)), order=order))
    assert stored.dtype == x.dtype.name
    assert back(stored).tobytes() == x.tobytes()
    assert stored.shape == x.shape


@pytest.mark.parametrize("dtype", ["float64", "float16", "int64", "uint16", "uint32", "bool"])
def test_other_numbers_become_float32(dtype):
    stored = as_array(np.array([[0, 1], [1, 0]], dtype))
    assert stored.dtype == "float32"
    assert back(stored).tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    "x", [[1, 2.5], (1, 2.5), array("d", [1, 2.5]), array("f", [1, 2.5]), memoryview(array("f", [1, 2.5]))]
)
def test_lists_and_buffers_of_floats_are_float32(x):
    stored = as_array(x)
    assert (stored.dtype, stored.shape, back(stored).tolist()) == ("float32", (2,), [1, 2.5])


def test_bytes_with_a_type_and_a_shape_are_a_sample():
    stored = as_array(memoryview(bytes(range(6))).cast("B", (2, 3)))
    assert (stored.dtype, stored.shape, stored.data) == ("uint8", (2, 3), bytes(range(6)))
    assert as_array(memoryview(bytes(8)).cast("f", (2,))).dtype == "float32"
    with pytest.raises(DataError, match="give bytes a type and a shape"):
        as_array(b"123")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e300])
@pytest.mark.parametrize("make", [list, np.array, lambda x: np.array(x, ">f8"), lambda x: array("d", x)])
def test_what_is_not_finite_in_float32_is_refused_with_its_row(bad, make):
    with pytest.raises(DataError, match="row 7: it holds NaN, an infinity or a value beyond float32"):
        as_array(make([0.0, bad]), "row 7")


@pytest.mark.parametrize(
    "x",
    [
        np.array(["a"]), np.array([...], dtype=object), np.array([1j]), np.array(["2020"], "datetime64"),
        ["a"], None,
        {}, [[1.0], [2.0]], [10**400], np.zeros(0), np.zeros((2, 0)), [], np.float32(3), np.zeros((1,) * 7),
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_array_of_numbers_is_refused(x):
    with pytest.raises(DataError, match="the sample: "):
        as_array(x)


def test_a_sample_beyond_the_limit_is_refused(monkeypatch):
    monkeypatch.setattr(module, "MAX_SAMPLE_BYTES", 8)
    assert len(as_array([1, 2]).data) == 8
    with pytest.raises(DataError, match="12 bytes, the limit is 8"):
        as_array([1, 2, 3])


def test_an_app_that_records_lists_needs_neither_numpy_nor_pynacl(tmp_path):
    script = f"""
import sys, fedclient
store = fedclient.SampleStore({str(tmp_path / "samples.db")!r})
store.append([1.0, 2.0], 1); store.usable(9); store.stats(); store.distinct()
assert not {{"numpy", "nacl", "cbor2", "paho"}} & sys.modules.keys(), sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", script], check=True)
