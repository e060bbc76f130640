"""Deadlines until which a sandbox may be silent."""

from hypothesis import given
from hypothesis import strategies as st

from muster.guardian.liveness.domain import SilenceDeadlines


def test_only_a_sandbox_without_a_heartbeat_in_time_is_due() -> None:
    deadlines = SilenceDeadlines()
    deadlines.expect_within("a", 0, 15)
    deadlines.expect_within("b", 0, 30)
    deadlines.expect_within("c", 0, 15)
    deadlines.expect_within("c", 10, 15)

    assert deadlines.earliest_s() == 15
    assert deadlines.due(20) == ["a"]


def test_every_sandbox_has_a_full_ttl_after_an_outage() -> None:
    deadlines = SilenceDeadlines()
    deadlines.expect_within("a", 0, 15)
    deadlines.restart_all(100)

    assert deadlines.due(114) == []
    assert deadlines.due(115) == ["a"]


def test_many_silent_sandboxes_at_once_are_a_storm_and_delayed_once() -> None:
    deadlines = SilenceDeadlines()
    for name in "abcde":
        deadlines.expect_within(name, 0, 15)
    deadlines.expect_within("e", 12, 15)

    assert deadlines.storm(15, share=0.5, at_least=5)
    assert not deadlines.storm(15, share=0.5, at_least=6)
    assert deadlines.hold("a", 15)
    assert "a" not in deadlines.due(29)
    assert not deadlines.hold("a", 30)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["heard", "forget", "again"]), st.floats(1, 30))))
def test_nothing_is_due_before_the_earliest(moves: list[tuple[str, str, float]]) -> None:
    deadlines, now = SilenceDeadlines(), 0.0
    for name, move, number in moves:
        now += 1
        match move:
            case "heard":
                deadlines.expect_within(name, now, number)
            case "forget":
                deadlines.forget(name)
            case _:
                deadlines.restart_all(now)
        earliest = deadlines.earliest_s()
        assert (earliest is None) == (len(deadlines) == 0)
        if earliest is not None:
            assert deadlines.due(earliest - 0.001) == []
            assert deadlines.due(earliest)
