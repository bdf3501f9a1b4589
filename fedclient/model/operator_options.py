"""Options of operators, read so that they can be written again without knowing what they mean.

The tables hold numbers alone, and are copied byte for byte; the few with strings or vectors are in
`REFERENCES`.  `FIELDS` says how many fields the schema gives each: what comes behind may be a reference.
"""

from __future__ import annotations

from typing import Final, Literal

from fedclient.errors import ModelError
from fedclient.model import operators
from fedclient.model.layout import Field, RawTable, Scalar, Vector
from fedclient.model.reader import Table
from fedclient.model.schema import OPTIONS, Op

MAX_BYTES: Final = 1024  # of a table; the largest of the schema has 40
Options = RawTable | dict[int, Field] | None

_COUNTS: Final = """
1:7 2:7 3:3 4:1 5:6 6:3 7:2 8:5 9:1 10:2 11:2 12:1 13:4 14:5 15:4 16:1 17:1 18:3 19:1 20:1 21:1 23:2
27:1 28:2 29:1 30:1 31:3 32:6 35:1 37:2 40:1 49:5 50:1 55:1 57:1 58:4 59:2 61:1 64:2 69:6 70:4 71:6 74:2
75:1 77:1 79:1 80:1 87:2 92:2 93:2 94:1 101:3 102:2 103:1 106:8 107:3 111:2 114:2 115:1 116:1
"""
FIELDS: Final = {int(kind): int(count) for kind, count in (pair.split(":") for pair in _COUNTS.split())}
# Fields that are a number ("i": int32), a string or a vector of numbers of 4 bytes, by options type.
REFERENCES: Final[dict[int, dict[int, Literal["i", "text", "vector"]]]] = {
    3: {0: "i", 1: "vector", 2: "vector"},  # ConcatEmbeddingsOptions
    17: {0: "vector"},  # ReshapeOptions
    30: {0: "vector"},  # SqueezeOptions
    111: {0: "text", 1: "text"},  # VarHandleOptions
    115: {0: "vector"},  # BucketizeOptions
}
# Fields that name a graph, by operator.
CALLS: Final[dict[int, tuple[int, ...]]] = {
    Op.CALL: (0,),
    Op.CALL_ONCE: (0,),
    Op.IF: (0, 1),
    Op.WHILE: (0, 1),
}


def read_options(kind: int, table: Table) -> tuple[Options, str]:
    """Return the options, and what of them cannot be copied, "" when all can."""
    fields, body = table.raw()
    if len(body) > MAX_BYTES:
        return None, f"has {len(body)} bytes of options ({kind})"
    if any(fields[FIELDS.get(kind, 0) :]):
        slot = max(slot for slot, place in enumerate(fields) if place)
        return None, f"has options ({kind}) whose field {slot} is newer than this program"
    if kind not in REFERENCES:
        return RawTable(fields=fields, body=body, start=table.position % 8), ""
    return {
        slot: _reference(table, slot, what) for slot, what in REFERENCES[kind].items() if table.has(slot)
    }, ""


def read_calls(op: int, kind: int, table: Table | None) -> tuple[int, ...]:
    """Return the graphs that an operator runs.

    Raises ModelError when it does not say which.
    """
    if op not in CALLS:
        return ()
    if table is None or kind != OPTIONS[Op(op)]:
        raise ModelError(
            f"the .tflite file is damaged: {operators.name(op)} does not say which graph it runs"
        )
    return tuple(table.signed(slot) for slot in CALLS[op])


def _reference(table: Table, slot: int, what: Literal["i", "text", "vector"]) -> Field:
    if what == "i":
        return Scalar("Int32", table.signed(slot))
    if what == "text":
        return table.name(slot)
    return Vector(4, table.vector(slot, 4))
