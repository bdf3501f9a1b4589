from __future__ import annotations

import dataclasses

from fedclient.model.document import Document
from fedclient.model.schema import Op, TensorType
from tests.model import backbones

OPERATOR = Document.read(backbones.custom()).graphs[0].operators[2]


def test_an_operator_is_called_by_the_name_people_know():
    assert str(OPERATOR) == "operator MyPrivateOp (2)"
    assert str(dataclasses.replace(OPERATOR, op=Op.CONV_2D)) == "operator CONV_2D (2)"
    assert str(dataclasses.replace(OPERATOR, op=500)) == "operator number 500 (2)"


def test_names_of_others_cannot_break_the_line():
    for name in ("a\nb", "a\x1b[31m", "x" * 500):
        shown = str(dataclasses.replace(OPERATOR, custom=name))
        assert shown.isprintable()
        assert len(shown) < 120
    tensor = Document.read(backbones.custom()).graphs[0].tensors[0]
    assert str(dataclasses.replace(tensor, name="a\nb")) == r"tensor 'a\nb' (0)"


def test_a_tensor_tells_its_type_and_which_sizes_are_free():
    tensor = Document.read(backbones.custom()).graphs[0].tensors[0]
    assert dataclasses.replace(tensor, kind=TensorType.INT8).dtype == "int8"
    assert dataclasses.replace(tensor, kind=99).dtype == "type 99"
    for shape, signature, sizes in [
        ((1, 8), (-1, 8), (-1, 8)),
        ((1, 8), (-1, -1), (-1, 8)),  # the file gives the size, whatever its converter left open
        ((1, 1), (-1, -1), (-1, -1)),
        ((1, 8), (), (1, 8)),
    ]:
        assert dataclasses.replace(tensor, shape=shape, shape_signature=signature).sizes == sizes
