"""A guardian replaces silent sandboxes and does not mistake an outage for silence."""

import asyncio
import signal
from pathlib import Path

from muster.guardian.journal.domain.decisions import read_decision
from tests.support.guardian import FAST_BEATS, unfoldable, words, world
from tests.support.servers import Restartable


async def test_silent_sandbox_is_replaced_once_and_one_with_heartbeats_is_not(
    nats_server: Restartable, tmp_path: Path
) -> None:
    async with world(nats_server.url, tmp_path / "log", FAST_BEATS) as it, words(it):
        silent, silent_log = it.sandbox()
        beating, beating_log = it.sandbox()
        over, over_log = it.sandbox()
        over.finished()
        for log in (silent_log, beating_log, over_log):
            await log.flush()

        async def asked() -> bool:
            await it.neighbours.beat(beating)
            return "replace_answered" in await it.kinds(silent)

        await it.until(asked)
        again = asyncio.get_running_loop().time() + 3

        async def three_seconds_later() -> bool:
            await it.neighbours.beat(beating)
            return asyncio.get_running_loop().time() > again

        await it.until(three_seconds_later)
        mine = [one for one in it.neighbours.replaced if one.task_id in {silent.task_id, beating.task_id, over.task_id}]
        assert [(one.task_id, one.epoch) for one in mine] == [(silent.task_id, 1)]
        decided = [read_decision(one).id for one in await it.records(silent) if one.kind == "unresponsive"]
        assert decided == [mine[0].decision_id]
        await it.assert_folds_again(silent)


async def test_no_sandbox_is_silent_without_a_heartbeat_of_the_gateway(
    nats_server: Restartable, tmp_path: Path
) -> None:
    async with world(nats_server.url, tmp_path / "log", FAST_BEATS) as it:
        script, log = it.sandbox()
        await log.flush()
        await it.until_kinds(script, "policy")
        await asyncio.sleep(3)  # two TTLs; only waiting can show that nothing happens
        assert it.neighbours.replaced == []
        async with words(it):
            began = asyncio.get_running_loop().time()
            await it.until_kinds(script, "replace_answered")
        assert asyncio.get_running_loop().time() - began > 1.4  # a full TTL after the reconnect


async def test_every_sandbox_gets_a_full_ttl_after_a_gateway_was_replaced(
    nats_server: Restartable, tmp_path: Path
) -> None:
    async with world(nats_server.url, tmp_path / "log", FAST_BEATS) as it, words(it):
        script, log = it.sandbox()
        await log.flush()
        await it.until_kinds(script, "policy")
        await asyncio.sleep(1)  # most of a TTL, during which this gateway may have lost heartbeats
        await it.neighbours.alive("the next one")
        began = asyncio.get_running_loop().time()
        await it.until_kinds(script, "replace_answered")
        assert asyncio.get_running_loop().time() - began > 1.4


async def test_restart_of_nats_marks_no_sandbox_silent(nats_server: Restartable, tmp_path: Path) -> None:
    async with world(nats_server.url, tmp_path / "log", FAST_BEATS) as it, words(it):
        script, log = it.sandbox()
        await log.flush()
        await it.until_kinds(script, "policy")

        async def beat() -> None:
            while True:
                await it.neighbours.beat(script)
                await asyncio.sleep(0.3)

        async with asyncio.TaskGroup() as tasks:
            beating = tasks.create_task(beat())
            await nats_server.kill()
            await asyncio.sleep(2)  # longer than a TTL
            await nats_server.start()
            await it.bus.connected.wait()
            await asyncio.sleep(2)
            beating.cancel()
        assert it.neighbours.replaced == []
        await it.until_kinds(script, "replace_answered")  # The guardian judges silence again.


async def test_log_that_cannot_be_folded_does_not_affect_other_sandboxes(
    nats_server: Restartable, tmp_path: Path
) -> None:
    async with world(nats_server.url, tmp_path / "log", FAST_BEATS) as it, words(it):
        await it.report(it.sandbox()[0])
        await it.guardian.end(signal.SIGKILL)
        broken, *others = [it.sandbox() for _ in range(8)]
        for script, log in (broken, *others):
            script.step("make", "error")
            await log.flush()
        last = 0
        for record in unfoldable():
            last = await it.logs.append(broken[0].sandbox_id, record, last=last)
        await it.guardian.start()
        for script, _ in others:
            await it.until_kinds(script, "replace_answered")
        assert "OverflowError" in it.guardian.said(), "it is told"
        assert "loop raised an unexpected error" not in it.guardian.said()
