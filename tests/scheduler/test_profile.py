"""Only what a profile names may be unknown."""

from fedclient.scheduler.profile import Profile


def test_only_what_is_named_is_excused() -> None:
    profile = Profile(name="b", title="B", missing={"under_voltage": "it has no detector"})
    assert profile.excuses("under_voltage") == "it has no detector"
    assert profile.excuses("temp_c") == ""
