"""Mistakes that the type checker must find, one for each marked line. `test_walls.py` runs pyright on this file."""

from muster.client import AsyncMuster, Muster, NewTask
from muster.common.bus.connection import Bus
from muster.common.bus.service import Service
from muster.common.contracts.tasks import EpochAnswer, GetTask, ReplaceAttempt, TaskView


async def wrong_reply(command: GetTask) -> EpochAnswer:
    return EpochAnswer(task_id=command.task_id, epoch=1, result="moot")


async def untyped_reply(command: GetTask):
    return {"task_id": command.task_id}


async def wrong_command(command: ReplaceAttempt) -> TaskView:
    raise AssertionError(command)


async def mistakes_of_a_caller(client: AsyncMuster, blocking: Muster) -> None:
    await client.tasks.submit(NewTask(objektive="x"))  # error: no such field
    await client.tasks.submit(NewTask(objective="x", max_cost_usd="1"))  # error: wrong type
    await client.tasks.list(state="done")  # error: no such state
    await client.agents.list(nam_starts="a")  # error: no such filter
    view: TaskView = client.tasks.get("t")  # error: not awaited
    reply: EpochAnswer = blocking.tasks.get(view.task_id)  # error: the reply is a TaskView
    del reply


async def mistakes(service: Service, bus: Bus) -> None:
    service.handles(GetTask, wrong_reply)  # error: another contract's reply
    service.handles(GetTask, untyped_reply)  # error: a dict is no reply
    service.handles(GetTask, wrong_command)  # error: another contract's command
    answer: EpochAnswer = await bus.request(GetTask(task_id="t"))  # error: the reply is a TaskView
    GetTask(task=answer)  # error: no such field
    GetTask(task_id=3)  # error: wrong type
    GetTask(task_id="t").task_id = "u"  # error: frozen
