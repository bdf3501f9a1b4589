"""What a child is told survives the way through its command line."""

from __future__ import annotations

import json
from dataclasses import asdict

from fedclient.device.assembly import AssembleArguments, named, ref_of
from fedclient.limits import MAX_TENSOR_NAME_BYTES, MAX_TENSOR_RANK, MAX_TENSORS
from fedclient.values import BlobRef, TensorSpec

MOST_ON_A_LINE = 128 * 1024  # MAX_ARG_STRLEN of execve(2)


def test_the_largest_head_fits_a_command_line() -> None:
    names = [
        f"{number:02}" + "\N{SNOWMAN}" * ((MAX_TENSOR_NAME_BYTES - 2) // 3) for number in range(MAX_TENSORS)
    ]
    refs = [BlobRef(hash=bytes([number]) * 32, size=2**40 + number) for number in range(10)]
    tensors = tuple((name, (1,) * (MAX_TENSOR_RANK - 1) + (4_000_000,)) for name in names)
    arguments = AssembleArguments(
        parent=2**22, blobs="/s" * 2000, head=named(refs[0]), base=named(refs[1]),
        steps=tuple(named(ref) for ref in refs[2:]), tensors=tensors,
        nice=19, idle=True, memory_mib=100, verbose=False,
    )  # fmt: skip
    line = json.dumps(asdict(arguments))
    assert len(line) < MOST_ON_A_LINE
    again = AssembleArguments(**json.loads(line))
    assert [ref_of(step) for step in again.steps] == refs[2:]
    assert again.specs == tuple(TensorSpec(name=name, shape=shape) for name, shape in tensors)
