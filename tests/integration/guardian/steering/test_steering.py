"""A guardian sends steering messages: for its own finding, and on request of a person."""

import asyncio
import signal
from pathlib import Path

import pytest

from muster.common.bus.message_store import MessageStore
from muster.common.clock import utc_now
from muster.common.contracts.guardian import Steer
from muster.common.contracts.sandbox_log import log_stream, log_subject, partition
from muster.common.faults import Conflict, InvalidMessage, NotFound
from muster.common.ids import new_id
from tests.support.guardian import World, play_to_the_end, world
from tests.support.sandbox_script import Script
from tests.support.servers import Restartable


async def verdict_s(world: World, script: Script) -> float:
    """Return the seconds from the frame with the repetition to the stored finding, by the server's clock."""
    message_store = MessageStore(world.bus)
    finding = next(one for one in await world.records(script) if one.kind == "finding")
    part = partition(script.sandbox_id)
    shown = [one async for one in message_store.replay(log_stream(part), log_subject(script.sandbox_id))]
    stored = [one async for one in message_store.replay("GUARDIAN", f"guardian.log.{script.sandbox_id}")]
    seen_at = next(one.at for one in shown if one.position == finding.after_position)
    return (stored[finding.n - 1].at - seen_at).total_seconds()


async def test_repeated_action_is_steered_and_its_receipts_end_in_heeded(
    nats_server: Restartable, tmp_path: Path
) -> None:
    async with world(nats_server.url, tmp_path / "log") as it:
        script, log = it.sandbox()
        await log.flush()
        await it.until_kinds(script, "policy")  # wait until the guardian is the leader
        message_id = await play_to_the_end(it, script, log)
        await it.until_kinds(script, "outcome", "stored")
        report = await it.report(script)

        assert [finding.detector for finding in report.findings] == ["repeated_action"]
        (said,) = report.interventions
        assert (said.message_id, said.stage, said.outcome) == (message_id, "outcome", "heeded")
        assert [one.stage for one in said.receipts] == ["issued", "stored", "delivered", "seen", "outcome"]
        assert all(one.cites for one in said.receipts)
        assert [one.epoch for one in it.neighbours.sent if one.message_id == message_id] == [1]
        print(f"verdict after {await verdict_s(it, script):.3f} s")
        await it.assert_folds_again(script)
        assert await it.guardian.end(signal.SIGTERM) == 0


async def test_repeated_steering_request_of_a_person_is_sent_once(nats_server: Restartable, tmp_path: Path) -> None:
    async with world(nats_server.url, tmp_path / "log") as it:
        script, log = it.sandbox()
        await log.flush()
        first, second = (
            Steer(message_id=new_id("msg"), target=target, text="use tabs", sender="ada")
            for target in (script.task_id, f"agt_{script.task_id}")
        )
        view = await it.asked(first)
        await it.asked(first)
        assert (view.sandbox_id, view.sender, view.text) == (script.sandbox_id, "ada", "use tabs")
        await it.asked(second)

        async def both_stored() -> bool:
            return (await it.kinds(script)).count("stored") == 2

        await it.until(both_stored)
        assert sorted(one.message_id for one in it.neighbours.sent) == sorted([first.message_id, second.message_id])
        script.says(f"muster:{first.message_id}").seen(first.message_id).step("ls", "a")
        await log.flush()
        await it.until_kinds(script, "outcome")
        await it.assert_folds_again(script)


async def test_an_agent_is_found_on_a_later_page_and_an_unknown_target_is_named(
    nats_server: Restartable, tmp_path: Path
) -> None:
    async with world(nats_server.url, tmp_path / "log") as it:
        it.neighbours.largest_page = 2
        stories = [it.sandbox() for _ in range(5)]
        script, log = stories[-1]
        await log.flush()
        wanted = Steer(message_id=new_id("msg"), target=f"agt_{script.task_id}", text="use tabs", sender="ada")
        assert (await it.asked(wanted)).task_id == script.task_id

        for target, refusal in (("agt_nobody", NotFound), ("no such.thing", InvalidMessage)):
            with pytest.raises(refusal) as refused:
                await it.asked(Steer(message_id=new_id("msg"), target=target, text="x", sender="ada"))
            assert refused.value.field == "$.target"


async def test_fifty_concurrent_steering_requests_are_each_answered_and_recorded_once(
    nats_server: Restartable, tmp_path: Path
) -> None:
    async with world(nats_server.url, tmp_path / "log") as it:
        script, log = it.sandbox()
        await log.flush()
        await it.until_kinds(script, "policy")
        wanted = [Steer(message_id=new_id("msg"), target=script.task_id, text="x", sender="ada") for _ in range(50)]
        views = await asyncio.gather(*(it.bus.request(one) for one in wanted))
        assert [view.message_id for view in views] == [one.message_id for one in wanted]

        async def all_stored() -> bool:
            return (await it.kinds(script)).count("stored") == 50

        await it.until(all_stored)
        assert (await it.kinds(script)).count("steer_requested") == 50
        assert sorted(one.message_id for one in it.neighbours.sent) == sorted(one.message_id for one in wanted)
        await it.assert_folds_again(script)


async def test_steering_an_agent_without_a_running_attempt_is_refused(nats_server: Restartable, tmp_path: Path) -> None:
    async with world(nats_server.url, tmp_path / "log") as it:
        unborn = Script(new_id("sbx"), new_id("tsk"), began=utc_now())
        it.neighbours.works_on(unborn, state="creating")
        over, over_log = it.sandbox()
        over.finished()
        await over_log.flush()
        lost = Script(new_id("sbx"), new_id("tsk"), began=utc_now())
        it.neighbours.works_on(lost, state="lost")

        for target, refusal, sentence in (
            (unborn.task_id, Conflict, "still being created"),
            (over.task_id, Conflict, "just ended"),
            (lost.task_id, Conflict, "has no running attempt"),
            ("tsk_nobody", NotFound, "with the id tsk_nobody"),
        ):
            with pytest.raises(refusal, match=sentence):
                await it.asked(Steer(message_id=new_id("msg"), target=target, text="x", sender="ada"))


async def test_message_that_the_gateway_refuses_expires(nats_server: Restartable, tmp_path: Path) -> None:
    async with world(nats_server.url, tmp_path / "log") as it:
        script, log = it.sandbox()
        it.neighbours.gone.add(script.sandbox_id)
        await log.flush()
        await it.asked(Steer(message_id=new_id("msg"), target=script.task_id, text="x", sender="ada"))
        await it.until_kinds(script, "expired")

        assert [one.stage for one in (await it.report(script)).interventions] == ["expired"]
