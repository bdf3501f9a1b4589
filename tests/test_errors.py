import inspect
import re

from fedclient import errors

TREE = [
    (name, base.__name__)
    for name, found in vars(errors).items()
    if inspect.isclass(found) and issubclass(found, errors.FedClientError)
    for base in found.__bases__
    if issubclass(base, errors.FedClientError)
]


def drawn() -> list[tuple[str, str]]:
    """(class, parent) as the drawing in the module's docstring says: depth is the column of the name."""
    pairs: list[tuple[str, str]] = []
    stack: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^[\s│├└─]*([A-Z]\w+)(?:\s{2,}|$)", line)
        if match is None:
            continue
        column, name = match.start(1), match.group(1)
        while stack and stack[-1][0] >= column:
            stack.pop()
        if stack:
            pairs.append((name, stack[-1][1]))
        stack.append((column, name))
    return pairs


def test_the_drawn_tree_is_the_tree() -> None:
    assert sorted(drawn()) == sorted(TREE)
    assert len(TREE) > 20


def test_each_error_is_transient_or_final() -> None:
    for name, _ in TREE:
        kind = getattr(errors, name)
        if kind not in {errors.TransientError, errors.FinalError}:
            assert issubclass(kind, errors.TransientError) != issubclass(kind, errors.FinalError), name


def test_each_error_is_raised_somewhere_or_has_kinds_that_are() -> None:
    package = "\n".join(
        path.read_text() for path in __import__("pathlib").Path(errors.__file__).parent.rglob("*.py")
    )
    for name, _ in TREE:
        uses = len(re.findall(rf"\b{name}\b", package))
        assert uses > 2, f"{name} stands in errors.py and nowhere else"
