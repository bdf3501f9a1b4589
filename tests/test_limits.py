import ast
from pathlib import Path

from fedclient import limits

SOURCE = Path(limits.__file__).read_text()
NAMES = [name for name in vars(limits) if name.isupper()]


def test_every_bound_says_its_unit_or_reason() -> None:
    lines = SOURCE.splitlines()
    for node in ast.parse(SOURCE).body:
        if isinstance(node, ast.AnnAssign):
            assert "#" in lines[node.end_lineno - 1], lines[node.lineno - 1]


def test_every_bound_is_used() -> None:
    package = Path(limits.__file__).parent
    text = "\n".join(path.read_text() for path in package.rglob("*.py") if path.name != "limits.py")
    unused = [name for name in NAMES if name not in text]
    assert not unused, f"bounds that bind nothing: {unused}"


def test_bounds_that_belong_together_agree() -> None:
    assert limits.MAX_BLOB_CHUNKS * 32 <= limits.MAX_CHUNK_BYTES  # the list of hashes is one chunk
    assert limits.MAX_CHUNK_BYTES < limits.MAX_DEVICE_PACKET_BYTES
    assert limits.MAX_UPDATE_BYTES < limits.MAX_PACKET_BYTES
    assert limits.MAX_HEAD_PARAMETERS < limits.MAX_UPDATE_BYTES  # a dense int8 head fits an update
    assert limits.MAX_MANIFEST_BYTES < limits.MAX_DEVICE_PACKET_BYTES
