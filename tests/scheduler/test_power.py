"""What supplies mean together, and the course of a battery that does not tell its direction."""

import json

import pytest

from fedclient.scheduler.power import KEEP_S, WINDOW_S, Seen, Supply, Trend, judge, parse_report

BATTERY = Supply(name="BAT0", kind="Battery", percent=71.0)
GAUGE = Supply(name="battery", kind="Battery", status="Unknown", online=True, percent=55.0, volts=3.8)


def course(volts, percents=None, *, step_s=60.0, trend=None, start_s=0.0, loaded=False) -> Trend:
    found = trend or Trend()
    for number, value in enumerate(volts):
        percent = None if percents is None else percents[number]
        found = found.after(Seen(start_s + number * step_s, value, percent), loaded=loaded)
    return found


def test_no_battery_is_mains_unless_the_owner_knows_better() -> None:
    for supplies in ((), (Supply(name="ucsi-source-psy-1", kind="USB", online=False),)):
        power, charging, percent = judge(supplies, None, None)
        assert (power.value, charging.value, percent.value) == ("mains", None, None)
        assert charging.reason == "there is no battery"
        assert judge(supplies, None, "battery")[0].value == "battery"


@pytest.mark.parametrize(
    ("status", "power", "charging"),
    [
        ("Discharging", "battery", False),
        ("Charging", "mains", True),
        ("Full", "mains", True),
        ("Not charging", "mains", True),
    ],
)
def test_a_batterys_status_comes_first(status: str, power: str, charging: bool) -> None:
    supply = Supply(name="BAT0", kind="Battery", status=status, percent=71.0)
    adapter = Supply(name="AC", kind="Mains", online=not charging)  # says the opposite
    found = judge([adapter, supply], not charging, None)
    assert (found[0].value, found[1].value, found[2].value) == (power, charging, 71.0)
    assert found[0].source == f"/sys/class/power_supply/BAT0/status: {status}"


def test_status_unknown_leaves_it_to_the_adapter() -> None:
    on, off = (Supply(name="AC", kind="Mains", online=state) for state in (True, False))
    usb = Supply(name="usb", kind="USB", online=False)
    assert judge([on, BATTERY], None, None)[0].value == "mains"
    assert judge([off, usb, BATTERY], None, None)[0].value == "battery"
    assert judge([usb, BATTERY], None, None)[0].value is None  # there may be a socket beside the USB one


def test_a_fuel_gauge_is_not_its_own_charger() -> None:
    power, charging, percent = judge([GAUGE], None, None)
    assert (power.value, charging.value, percent.value) == (None, None, 55.0)
    assert power.reason.endswith("set [power] assume, command or file")
    assert (
        judge([GAUGE], trend=True, assume="battery")[0].value == "mains"
    )  # its course comes before what is assumed
    assert judge([GAUGE], trend=False, assume="mains")[0].value == "battery"
    power, charging, _ = judge([GAUGE], None, "mains")
    assert (power.value, power.source, charging.value) == ("mains", "[power] assume", None)


def test_several_batteries_empty_one_after_the_other() -> None:
    full = Supply(name="BAT1", kind="Battery", status="Unknown", percent=99.0)
    empty = Supply(name="BAT0", kind="Battery", status="Discharging", percent=1.0)
    found = judge([empty, full], None, None)
    assert (found[0].value, found[2].value) == ("battery", 50.0)
    silent = Supply(name="BAT2", kind="Battery")
    assert judge([empty, silent], None, None)[2].value is None


def test_minutes_of_falling_voltage_are_a_discharge() -> None:
    falling = [3.90 - 0.005 * number for number in range(10)]
    assert course(falling[:5]).verdict(240.0) is None  # too few to tell
    found = course(falling)
    assert found.verdict(540.0) is False
    assert found.verdict(540.0 + KEEP_S) is False
    assert found.verdict(541.0 + KEEP_S) is None  # nothing newer: who knows
    assert found.verdict(0.0) is None


def test_rising_voltage_or_charge_is_charging() -> None:
    assert course([3.80 + 0.006 * number for number in range(10)]).verdict(540.0) is True
    assert course([None] * 9, [50, 50, 51, 51, 52, 52, 52, 53, 53]).verdict(480.0) is True
    # The charge counts before the voltage, which a cold battery may lift.
    assert (
        course([3.8 + 0.01 * one for one in range(9)], [60 - one for one in range(9)]).verdict(480.0) is False
    )


@pytest.mark.parametrize(
    "volts",
    [
        [3.80, 3.81, 3.80, 3.79, 3.80, 3.81, 3.80, 3.79, 3.80],  # noise
        [3.80] * 9,
        [3.80, 3.80, 3.80, 3.80, 2.10, 3.80, 3.80, 3.80, 3.80],  # one bad value
        [None] * 9,
        [0.0] * 9,
    ],
)
def test_noise_is_no_direction(volts) -> None:
    assert course(volts).verdict(480.0) is None
    assert (
        course([3.8] * 9, [70, 71, 70, 71, 70, 71, 70, 71, 71]).verdict(480.0) is None
    )  # a flickering percent


def test_the_trainers_start_and_end_are_no_direction() -> None:
    resting = course([3.80] * 8)
    loaded = course([3.72] * 8, trend=resting, start_s=480.0, loaded=True)  # the load pulls it down
    assert loaded.verdict(900.0) is None
    relaxed = course([3.80] * 8, trend=loaded, start_s=960.0)
    assert relaxed.verdict(1400.0) is None


def test_a_verdict_holds_over_the_trainers_start() -> None:
    charging = course([3.80 + 0.006 * number for number in range(10)])
    assert course([3.8], trend=charging, start_s=600.0, loaded=True).verdict(600.0) is True


def test_looking_often_does_not_fill_the_memory() -> None:
    found = course([3.8] * 5000, step_s=5.0)
    assert len(found.seen) <= WINDOW_S / 15 + 1


def test_another_boots_clock_begins_anew() -> None:
    found = course([3.90 - 0.005 * number for number in range(10)], start_s=1e6)
    assert course([3.9], trend=found).verdict(0.0) is None


def test_the_owners_report() -> None:
    found = parse_report('{"source": "battery", "percent": 71, "charging": false}', "ups.json")
    assert [one.value for one in found] == ["battery", False, 71.0]
    assert {one.source for one in found} == {"ups.json"}
    mains = parse_report('{"source": "mains"}', "ups.json")
    assert [one.value for one in mains] == ["mains", None, None]
    assert mains[1].reason == "ups.json does not say"


@pytest.mark.parametrize(
    "said",
    [
        "",
        "not json",
        "[]",
        "null",
        "{}",
        '{"source": "solar"}',
        '{"source": ["battery"]}',
        '{"source": "battery", "percent": 140}',
        '{"source": "battery", "percent": -1}',
        '{"source": "battery", "percent": NaN}',
        '{"source": "battery", "percent": true}',
        '{"source": "battery", "percent": "71"}',
        '{"source": "battery", "charging": 1}',
        "[" * 5000,
        '{"source": "battery", "percent": ' + "9" * 5000 + "}",
    ],
)
def test_a_report_that_is_none(said: str) -> None:
    with pytest.raises(ValueError, match=r"^ups\.json: "):
        parse_report(said, "ups.json")


def test_a_report_may_say_more() -> None:
    said = json.dumps({"source": "mains", "percent": 12.5, "charging": True, "volts": 5.1})
    assert [one.value for one in parse_report(said, "x")] == ["mains", True, 12.5]
