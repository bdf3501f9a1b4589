"""The picture of a replay: well-formed, self-contained, light, and true to the numbers."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from fedclient.cli.replay_svg import draw
from fedclient.scheduler.profile import UNKNOWN_BOARD
from fedclient.scheduler.replay import Interval, Replay, Terms, Totals, replay
from fedclient.scheduler.schedule import Policy
from fedclient.scheduler.trace import decode
from fedclient.testing import week

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def found() -> Replay:
    terms = Terms(policy=Policy(), profile=UNKNOWN_BOARD)
    return replay(decode(list(week.lines("busy", days=3))).points, terms)


def test_it_is_one_light_file_that_fetches_nothing(found: Replay) -> None:
    text = draw(found, "busy")
    root = ET.fromstring(text)  # noqa: S314 - our own
    assert root.tag == f"{SVG}svg"
    assert {one.tag.removeprefix(SVG) for one in root.iter()} <= {
        "svg",
        "title",
        "style",
        "rect",
        "path",
        "text",
    }
    assert not re.search(r"href|url\(|@import|<script|src=", text)
    assert len(text) < 20_000


def test_a_title_of_any_signs_is_text(found: Replay) -> None:
    title = 'a <b> & "c" \x01\x1b \udcff'
    root = ET.fromstring(draw(found, title).encode())  # noqa: S314 - our own
    assert root.findtext(f"{SVG}title") == 'a <b> & "c" ?? ?'


def bars(text: str, kind: str) -> list[list[tuple[float, float]]]:
    """Return the boxes of each row, in hours."""
    root = ET.fromstring(text)  # noqa: S314 - our own
    rows = []
    for path in root.iter(f"{SVG}path"):
        if path.get("class") == kind:
            boxes = re.findall(r"M([\d.]+) \d+h([\d.]+)v16H[\d.]+z", path.get("d") or "")
            rows.append([((float(x) - 70) / 30, (float(x) + float(w) - 70) / 30) for x, w in boxes])
    return rows


def test_bars_are_where_it_trained() -> None:
    one = Interval(begin_s=3600.0, end_s=7200.0, ended="done", closed=(), resumed=False)
    late = replace(one, begin_s=23 * 3600.0, end_s=25 * 3600.0)
    short = replace(one, begin_s=10 * 3600.0, end_s=10 * 3600.0 + 5)
    totals = Totals(
        trace_s=2 * 86_400.0, training_s=1, jobs=1, stops=0, traffic_bytes=1, flash_bytes=1, energy_j=None
    )
    text = draw(
        Replay(
            intervals=(one, short, late),
            totals=totals,
            closed={"load": 0.5},
            covered=((0.0, 2 * 86_400.0),),
            origin_min=0.0,
        ),
        "t",
    )
    assert bars(text, "c") == [[(0.0, 24.0)], [(0.0, 24.0)]]
    first, second = bars(text, "t")
    assert first[0] == (1.0, 2.0)
    assert first[1][0] == 10.0
    assert first[1][1] > 10.02  # five seconds can be seen
    assert first[2] == (23.0, 24.0)
    assert second == [(0.0, 1.0)]
    assert ">Mon<" in text
    assert ">50.0%<" in text


def test_rows_and_gates_make_it_taller(found: Replay) -> None:
    def height(text: str) -> int:
        return int(ET.fromstring(text).get("height") or 0)  # noqa: S314 - our own

    assert height(draw(found, "t")) > height(draw(replace(found, closed={}), "t"))
