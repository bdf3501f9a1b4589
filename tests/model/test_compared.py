"""The comparison with the reference can fail: a graph with one operation changed is found out."""

from __future__ import annotations

import itertools

import pytest

from fedclient.model.compared import largest_error
from fedclient.model.head import HeadOptions, Optimizer, metadata, write_head
from fedclient.runtime import load

KINDS = [
    HeadOptions(optimizer=optimizer, normalize=normalize, personal=personal)
    for optimizer, normalize, personal in itertools.product(Optimizer, (False, True), (False, True))
]


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("hidden", [None, 7])
def test_heads_with_any_options_match_the_reference(hidden, options):
    assert largest_error(load(write_head(4, 3, hidden, options=options)), metadata(hidden, options)) < 5e-5


def error_of(options, hidden=7):
    return largest_error(load(write_head(6, 3, hidden, options=options)), metadata(hidden, options))
