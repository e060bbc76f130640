"""Limits of one sandbox's requests, and of the cost of a body before it is refused."""

import json
import tracemalloc
from collections.abc import Callable
from contextlib import suppress

import pytest

from muster.common.faults import Fault, InvalidMessage, TooLarge, Unavailable
from muster.sandbox_gateway.http import request_allowance
from muster.sandbox_gateway.http.request_allowance import AllowanceUse, OverAllowance, SandboxAllowances
from muster.sandbox_gateway.sandbox_log.domain.post_checks import MOST_EVENTS, check_size, checked_bodies, events_post

LARGE = b"[" + b"[]," * 2_500_000 + b"0]"
"""7.2 MiB, and over 150 MB once it is decoded."""


class Clock:
    def __init__(self) -> None:
        self.at_s = 0.0

    def __call__(self) -> float:
        return self.at_s


def refused(ask: Callable[[], object]) -> type[Fault] | None:
    try:
        ask()
    except Fault as fault:
        return type(fault)
    return None


def spend(allowances: SandboxAllowances, sandbox_id: str, size: int) -> None:
    visit = allowances.begin(sandbox_id)
    try:
        visit.hold(size)
    finally:
        visit.end()


def test_requests_beyond_the_rate_are_refused_until_time_has_passed() -> None:
    clock = Clock()
    allowances = SandboxAllowances(clock)
    for _ in range(int(request_allowance.MOST_REQUESTS)):
        allowances.begin("sbx_1").end()
    with pytest.raises(OverAllowance):
        allowances.begin("sbx_1")
    allowances.begin("sbx_2").end()
    clock.at_s = 1.0
    for _ in range(int(request_allowance.REQUESTS_PER_S)):
        allowances.begin("sbx_1").end()
    with pytest.raises(OverAllowance):
        allowances.begin("sbx_1")


def test_sandbox_over_its_limit_may_still_send_heartbeats() -> None:
    clock = Clock()
    allowances = SandboxAllowances(clock)
    while not refused(lambda: spend(allowances, "sbx_1", 8 << 20)):
        continue
    spend(allowances, "sbx_1", 1 << 10)
    spend(allowances, "sbx_2", 8 << 20)
    clock.at_s = 1.0
    spend(allowances, "sbx_1", int(request_allowance.BYTES_PER_S))


def test_body_in_pieces_costs_the_same_as_a_whole_body() -> None:
    allowances = SandboxAllowances(Clock())
    for number in range(4):
        visit = allowances.begin("sbx_1")
        visit.expect((8 << 20) if number % 2 else 0)
        for size in range(1 << 20, 9 << 20, 1 << 20):
            visit.hold(size)
        visit.end()
    assert refused(lambda: spend(allowances, "sbx_1", 1 << 20)) is OverAllowance


def test_number_of_open_requests_is_bounded_and_released() -> None:
    allowances = SandboxAllowances(Clock())
    visits = [allowances.begin("sbx_1") for _ in range(request_allowance.REQUESTS_AT_ONCE)]
    assert refused(lambda: allowances.begin("sbx_1")) is OverAllowance
    for visit in visits[:3]:
        visit.expect(8 << 20)
    assert refused(lambda: visits[3].expect(1 << 20)) is OverAllowance
    for visit in visits:
        visit.end()
    allowances.begin("sbx_1").end()
    assert allowances.held == 0


def test_total_size_of_bodies_is_bounded_but_a_heartbeat_still_fits() -> None:
    allowances, visits = SandboxAllowances(Clock()), list[AllowanceUse]()

    def hold(number: int) -> None:
        visits.append(allowances.begin(f"sbx_{number}"))
        visits[-1].hold(8 << 20)

    for number in range(request_allowance.ALL_BYTES_AT_ONCE // (8 << 20)):
        hold(number)
    with pytest.raises(Unavailable):
        hold(1000)
    spend(allowances, "sbx_1001", 1 << 10)
    for visit in visits:
        visit.end()
    hold(1002)


def test_announced_body_without_bytes_uses_no_memory_of_others() -> None:
    allowances = SandboxAllowances(Clock())
    for number in range(100):
        allowances.begin(f"sbx_{number}").expect(8 << 20)
    spend(allowances, "sbx_1000", 8 << 20)


def sent(body: bytes) -> int:
    """Return the number of such bodies that a sandbox may send at once."""
    allowances, count = SandboxAllowances(Clock()), 0
    while True:
        visit = allowances.begin("sbx_1")
        try:
            visit.hold(len(body))
            visit.weigh(body)
        except OverAllowance:
            return count
        finally:
            visit.end()
        count += 1


def test_cost_of_a_body_includes_its_decoded_size() -> None:
    size = 512 << 10
    text, lists, strings = b'"' + b"x" * size + b'"', b"[]," * (size // 3), b'"",' * (size // 3)
    assert sent(text) > 5 * sent(lists) > 0
    assert sent(text) > 3 * sent(strings) > 0
    assert sent(LARGE) > 0


def events(*bodies: bytes) -> bytes:
    head = b'{"seq":%d,"event_id":"e","kind":"k","at":"2026-11-21T00:00:00Z","source":"a","body":'
    each = (head % seq + body + b"}" for seq, body in enumerate(bodies, 1))
    return b'{"epoch":1,"events":[' + b",".join(each) + b"]}"


@pytest.mark.parametrize(
    ("body", "most"),
    [
        pytest.param(LARGE, 20_000_000, id="a list"),
        pytest.param(b'{"epoch":1,"x":' + LARGE + b"}", 20_000_000, id="an unknown field"),
        pytest.param(b'{"epoch":1,"events":' + LARGE + b"}", 20_000_000, id="events"),
        pytest.param(events(*[b"[" + b"[]," * 5_000 + b"0]"] * 14), 1_500_000, id="bodies"),
    ],
)
def test_a_post_takes_little_more_memory_than_its_bytes(body: bytes, most: int) -> None:
    tracemalloc.start()
    try:
        with suppress(InvalidMessage):
            for _ in checked_bodies(events_post(body).events):
                continue
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < most


def test_other_requests_run_between_the_events_of_a_large_post() -> None:
    bodies = [b'"' + b"x" * (256 << 10) + b'"'] * 20
    assert sum(1 for _ in checked_bodies(events_post(events(*bodies)).events)) == len(bodies)
    assert not list(checked_bodies(events_post(events(b"1", b"2")).events))


def test_a_post_of_very_many_events_is_too_large() -> None:
    with pytest.raises(TooLarge) as refusal:
        events_post(events(*[b"1"] * (MOST_EVENTS + 1)))
    assert refusal.value.field == "$.events"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(LARGE, id="lists"),
        pytest.param(b"[" + b"{}," * 2_500_000 + b"0]", id="objects"),
        pytest.param(b"[" + b"0," * 3_500_000 + b"0]", id="numbers"),
        pytest.param(b"[" + b'"ab",' * 1_500_000 + b"0]", id="strings"),
        pytest.param(b"[" + rb'"\\",' * 1_400_000 + b"0]", id="strings of a backslash"),
    ],
)
def test_a_request_that_would_be_large_once_decoded_is_refused_before(body: bytes) -> None:
    with pytest.raises(TooLarge):
        check_size(body)


def test_a_long_conversation_about_code_is_not_too_large() -> None:
    code = 'print([{"a": [1, 2, {}]}], "[", "{", "\\\\")\n' * 150
    messages = [{"role": "user", "content": code} for _ in range(900)]
    body = json.dumps({"model": "m", "messages": messages}).encode()
    assert len(body) > 7_000_000
    check_size(body)
