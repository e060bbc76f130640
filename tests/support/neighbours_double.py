"""A double of the two services that the guardian calls: gateway and agent manager."""

import asyncio

from muster.common.bus.connection import Bus
from muster.common.bus.service import Service
from muster.common.contracts.gateway import GatewayAlive, MessageStored, SandboxBeat, SendMessage
from muster.common.contracts.sandbox_log import partition
from muster.common.contracts.tasks import (
    AttemptState,
    AttemptView,
    EpochAnswer,
    GetTask,
    ListTasks,
    ReplaceAttempt,
    TaskPage,
    TaskView,
)
from muster.common.faults import Gone, InvalidMessage, NotFound
from muster.common.ids import new_id
from tests.support.sandbox_script import BEGAN, Script


class NeighboursDouble:
    """A double of gateway and manager. It stores the received commands and replies according to the contracts."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.sent: list[SendMessage] = []
        self.replaced: list[ReplaceAttempt] = []
        self.gone: set[str] = set()
        self.answers = asyncio.Event()
        """If cleared, the gateway's double accepts messages but delays its replies."""
        self.answers.set()
        self.largest_page = 100
        self.tasks: dict[str, TaskView] = {}
        self.gateway, self.manager = Service("sandbox_gateway", bus), Service("agent_manager", bus)
        self.gateway.handles(SendMessage, self._send)
        self.manager.handles(ReplaceAttempt, self._replace)
        self.manager.handles(GetTask, self._get)
        self.manager.handles(ListTasks, self._list)

    async def alive(self, instance: str = "double") -> None:
        """Publish the heartbeat of a gateway."""
        await self._bus.publish(GatewayAlive(instance=instance, at=self._bus.now()))

    async def beat(self, script: Script) -> None:
        """Publish a worker's heartbeat, as the gateway does."""
        await self._bus.publish(
            SandboxBeat(
                partition=partition(script.sandbox_id),
                sandbox_id=script.sandbox_id,
                task_id=script.task_id,
                epoch=script.epoch,
                at=self._bus.now(),
                state="running",
                busy="tool",
                since=self._bus.now(),
                events=0,
                acked=0,
            )
        )

    def works_on(self, script: Script, *, state: AttemptState = "running") -> TaskView:
        """Add the script's attempt to the tasks that the manager's double returns."""
        attempt = AttemptView(
            attempt_id=new_id("att"),
            epoch=script.epoch,
            sandbox_id=script.sandbox_id,
            state=state,
            created_at=BEGAN,
        )
        earlier = self.tasks.get(script.task_id)
        self.tasks[script.task_id] = TaskView(
            task_id=script.task_id,
            agent_id=f"agt_{script.task_id}",
            package="echo",
            model="scripted/x",
            objective="test",
            repo=None,
            test_command=None,
            priority="NORMAL",
            project="default",
            labels={},
            timeout_s=60,
            state="running",
            version=1,
            created_at=BEGAN,
            updated_at=BEGAN,
            attempts=[*(earlier.attempts if earlier else []), attempt],
        )
        return self.tasks[script.task_id]

    async def _send(self, command: SendMessage) -> MessageStored:
        if command.sandbox_id in self.gone:
            raise Gone("the sandbox's epoch has ended")
        self.sent.append(command)
        await self.answers.wait()
        return MessageStored(message_id=command.message_id, position=len(self.sent))

    async def _replace(self, command: ReplaceAttempt) -> EpochAnswer:
        self.replaced.append(command)
        return EpochAnswer(task_id=command.task_id, epoch=command.epoch, result="replacing")

    async def _get(self, query: GetTask) -> TaskView:
        if query.task_id not in self.tasks:
            raise NotFound(f"there is no task {query.task_id}", field="$.task_id")
        return self.tasks[query.task_id]

    async def _list(self, query: ListTasks) -> TaskPage:
        if not 1 <= query.limit <= 100:
            raise InvalidMessage("limit must be 1 to 100", field="$.limit")
        running = [task for task in self.tasks.values() if task.state == query.state]
        first, most = int(query.cursor or 0), min(query.limit, self.largest_page)
        more = first + most < len(running)
        return TaskPage(tasks=running[first : first + most], next_cursor=str(first + most) if more else None)
