from __future__ import annotations

import pytest

from fedclient.errors import DataError
from fedclient.samples.label import as_label, as_text


def test_a_label_of_numpy_becomes_pythons():
    numpy = pytest.importorskip("numpy")
    assert type(as_label(numpy.uint8(3), "it")) is int
    assert type(as_label(numpy.str_("x"), "it")) is str


@pytest.mark.parametrize("label", [2**63, 0.5, True, b"x", "x" * 65, "ä" * 33, "a\tb", object()])
def test_what_is_no_label_is_refused_with_its_place(label):
    with pytest.raises(DataError, match="row 7 is "):
        as_label(label, "row 7")


def test_text_is_bounded_in_bytes():
    assert as_text("ä" * 4, "it", 8) == "ä" * 4
    with pytest.raises(DataError, match="at most 7 bytes"):
        as_text("ä" * 4, "it", 7)
