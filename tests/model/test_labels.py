from __future__ import annotations

import pytest

from fedclient import limits
from fedclient.errors import DataError
from fedclient.model.labels import label_lines


def test_the_lines_of_a_file_are_labels():
    assert label_lines(b"\xef\xbb\xbfa \r\nb\r\n\r\n", "f") == ("a", "b")
    with pytest.raises(DataError, match=r"labels\.txt: two classes are called 'a'"):
        label_lines(b"a\na", "labels.txt")
    with pytest.raises(DataError, match="more than"):
        label_lines("\n".join(map(str, range(limits.MAX_LABELS + 1))).encode(), "f")


def test_a_million_labels_are_refused_by_their_number_before_any_is_looked_at():
    names = [f"{number:x}" for number in range(limits.MAX_LABELS)]
    with pytest.raises(DataError, match="more than"):  # to find the two took time by the square of them
        label_lines("\n".join([*names, "same", "same"]).encode(), "f")
