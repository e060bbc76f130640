"""Messages to a process-mode agent, and its heartbeat intervals."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.agent.activity import AgentActivity
from muster.agent.auto_reset_event import AutoResetEvent
from muster.agent.base import AgentMessage
from muster.agent.message_queue import MOST_WAITING, MessageQueue
from muster.agent.process_heartbeat import MOST_STRETCH, interval_s
from muster.common.clock import utc_now
from muster.common.faults import TooMany, Unavailable
from tests.support.eventually import eventually


class Listener:
    """An agent that answers when the test allows it."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.may_answer = asyncio.Event()

    async def on_message(self, told: AgentMessage) -> str:
        self.heard.append(told.message_id)
        await self.may_answer.wait()
        return told.text.upper()


def told(number: int, *, urgent: bool = False) -> AgentMessage:
    return AgentMessage(message_id=f"msg_{number}", text=f"text {number}", sender="test", urgent=urgent)


@pytest.fixture
async def listener() -> Listener:
    return Listener()


@pytest.fixture
async def pulse() -> AgentActivity:
    return AgentActivity(AutoResetEvent(), utc_now, state="idle")


@pytest.fixture
async def mailbox(listener: Listener, pulse: AgentActivity) -> AsyncIterator[MessageQueue]:
    async with asyncio.TaskGroup() as tasks:
        mailbox = MessageQueue(listener.on_message, pulse, tasks)
        yield mailbox
        await mailbox.shut(0.01, for_good=True)


async def until(listener: Listener, count: int) -> None:
    await eventually(lambda: len(listener.heard) >= count, every_s=0)


async def test_messages_are_delivered_in_order_once_and_an_urgent_one_does_not_wait(
    mailbox: MessageQueue, listener: Listener, pulse: AgentActivity
) -> None:
    tasks = [mailbox.take(told(number)) for number in (1, 2, 3, 2)]
    assert listener.heard == []
    mailbox.open()
    await until(listener, 1)
    assert pulse.state == "running"
    mailbox.take(told(9, urgent=True))
    await until(listener, 2)
    listener.may_answer.set()
    outcomes = await asyncio.gather(*tasks)
    assert [outcome.answer for outcome in outcomes] == ["TEXT 1", "TEXT 2", "TEXT 3", "TEXT 2"]
    assert listener.heard == ["msg_1", "msg_9", "msg_2", "msg_3"]
    assert (mailbox.waiting, mailbox.answered, pulse.state) == (0, 4, "idle")


async def test_too_many_messages_are_refused_and_waiting_ones_are_kept(
    mailbox: MessageQueue, listener: Listener
) -> None:
    tasks = [mailbox.take(told(number)) for number in range(MOST_WAITING)]
    with pytest.raises(TooMany):
        mailbox.take(told(MOST_WAITING))
    listener.may_answer.set()
    mailbox.open()
    assert all(outcome.answer for outcome in await asyncio.gather(*tasks))
    assert (await mailbox.take(told(MOST_WAITING))).answer


async def test_waiting_messages_survive_a_restart_and_a_running_one_is_cancelled(
    mailbox: MessageQueue, listener: Listener
) -> None:
    mailbox.open()
    in_hand, waits = mailbox.take(told(1)), mailbox.take(told(2))
    await until(listener, 1)
    await mailbox.shut(0.01, for_good=False)
    assert isinstance((await in_hand).fault, Unavailable)
    listener.may_answer.set()
    assert not waits.done()
    mailbox.open()
    assert (await waits).answer == "TEXT 2"


async def test_every_sender_gets_an_answer_at_the_end(mailbox: MessageQueue, listener: Listener) -> None:
    mailbox.open()
    tasks = [mailbox.take(told(1)), mailbox.take(told(2))]
    await until(listener, 1)
    await mailbox.shut(0.01, for_good=True)
    assert [type(outcome.fault) for outcome in await asyncio.gather(*tasks)] == [Unavailable, Unavailable]
    with pytest.raises(Unavailable):
        mailbox.take(told(3))


@given(st.sampled_from([5.0, 10.0]), st.floats(0, 1e6))
def test_one_lost_heartbeat_is_never_silence(base_s: float, load: float) -> None:
    interval = interval_s(base_s, load)
    assert base_s <= interval <= base_s * MOST_STRETCH
    assert 2 * interval < 3 * base_s, "the TTL is three beats of the unstretched interval"
