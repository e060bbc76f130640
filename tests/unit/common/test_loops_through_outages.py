"""A loop continues as long as its rounds are refused; a loop with a bug ends its service. Time is virtual."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from nats.aio.client import Client

from muster.common.bus.connection import Bus
from muster.common.faults import Fault, NotFound, TimedOut, TooMany, Transient, Unavailable
from muster.common.ids import new_id
from muster.common.supervision import LONGEST_WAIT_S, GaveUpError, supervise
from muster.sandbox_gateway.sandboxes.domain.lifecycle import SandboxRecord
from muster.sandbox_gateway.sandboxes.reconcilers.record_expiry import KEPT, RecordDeletion
from muster.sandbox_gateway.sandboxes.store import SandboxStore
from tests.support.sandbox_commands import create_command
from tests.support.virtual_time import in_virtual_time

OUTAGE_S = 300.0
NOW = datetime(2026, 11, 30, tzinfo=UTC)
REFUSALS = [
    Unavailable("NATS is away"),
    TimedOut(),
    TooMany(),
    NotFound(),
    Fault("the other side's bug"),
    Transient("again", delay_s=0.5),
    ExceptionGroup("of a loop with two tasks", [Unavailable(), ExceptionGroup("inner", [Transient("again")])]),
]


class Outage:
    """Rounds of a loop that fail until the test changes this."""

    def __init__(self, error: Exception) -> None:
        self.error: Exception | None = error
        self.tries = list[float]()
        self.back_at = 0.0

    async def run(self) -> None:
        while True:
            now = asyncio.get_running_loop().time()
            self.tries.append(now)
            if self.error is not None:
                raise self.error
            self.back_at = self.back_at or now
            await asyncio.sleep(60.0)


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: type(refusal).__name__)
def test_loop_survives_minutes_of_refusals_and_continues_soon_after(refusal: Exception) -> None:
    @in_virtual_time
    async def through_the_outage() -> None:
        outage = Outage(refusal)
        async with asyncio.TaskGroup() as tasks:
            loop = tasks.create_task(supervise("loop", outage.run))
            await asyncio.sleep(OUTAGE_S)
            assert not loop.done()
            over_at, outage.error = asyncio.get_running_loop().time(), None
            await asyncio.sleep(LONGEST_WAIT_S)
            loop.cancel()
        assert over_at <= outage.back_at <= over_at + LONGEST_WAIT_S
        waits = [later - sooner for sooner, later in zip(outage.tries, outage.tries[1:], strict=False)]
        assert min(waits) > 0.2, "no round is tried again at once"
        assert len(outage.tries) < OUTAGE_S, "nor once a second for ever"

    through_the_outage()


@pytest.mark.parametrize("bug", [RuntimeError("bug"), ExceptionGroup("both", [Unavailable(), KeyError("bug")])])
def test_loop_with_a_bug_gives_up_although_refusals_are_between(bug: Exception) -> None:
    @in_virtual_time
    async def until_it_gives_up() -> None:
        runs = 0

        async def run() -> None:
            nonlocal runs
            runs += 1
            raise bug if runs % 2 else Unavailable("NATS is away")

        with pytest.raises(GaveUpError, match="failed 5 times"):
            async with asyncio.timeout(OUTAGE_S):
                await supervise("loop", run)
        assert runs == 9

    until_it_gives_up()


@in_virtual_time
async def test_outage_does_not_end_the_expiry_of_records() -> None:
    bus = Bus(
        Client(), "sandbox_gateway", now=lambda: NOW, new_id=new_id
    )  # never connected: each call is `Unavailable`
    sandboxes = SandboxStore(bus)
    sandboxes._learn("sbx_1", deleted_long_ago(), 1)  # pyright: ignore[reportPrivateUsage] - as read before the outage
    async with asyncio.TaskGroup() as tasks:
        loop = tasks.create_task(supervise("forgetting", RecordDeletion(sandboxes, bus.now).run))
        await asyncio.sleep(OUTAGE_S)
        assert not loop.done()
        loop.cancel()


def deleted_long_ago() -> SandboxRecord:
    create = create_command(sandbox_id="sbx_1")
    at = NOW - KEPT - timedelta(days=1)
    return SandboxRecord(create=create, host="host", provider="local", created_at=at).moved("deleted")
