"""Actions of people over NATS are in the audit with the name from the credentials. The audit does not delay the reply."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import msgspec

from muster.agent_manager.fleet.handlers.generic_subjects import GenericSubjects, GenericVerbs, ManagerService
from muster.common.bus.audit_trail import AuditTrail
from muster.common.bus.command_audit import CommandAudit
from muster.common.bus.connection import Bus
from muster.common.bus.message_store import MessageStore
from muster.common.bus.service import Service
from muster.common.contract import decode
from muster.common.contracts.agent_lifecycle import StopAgent
from muster.common.contracts.agent_process import AgentManagerCommand
from muster.common.contracts.agents import AgentView
from muster.common.contracts.audit import Audited
from muster.common.contracts.tasks import CancelTask, ListTasks, TaskPage, TaskView
from muster.common.faults import Conflict, Fault, NotFound
from muster.common.ids import new_id
from muster.common.nats_identity.roles import NatsRole
from tests.support.identity import IdentityServer
from tests.support.patience import PATIENCE_S


@asynccontextmanager
async def manager(server: IdentityServer) -> AsyncGenerator[Bus]:
    """Run a manager that refuses every command and knows no tasks, with the manager's credentials."""

    async def cancel(command: CancelTask) -> TaskView:
        raise Conflict(f"task {command.task_id} has completed already")

    async def page(_: ListTasks) -> TaskPage:
        return TaskPage(tasks=[])

    async def stop(command: StopAgent) -> AgentView:
        raise NotFound(f"there is no agent {command.agent_id}", field="$.agent_id")

    async with server.bus(NatsRole.AGENT_MANAGER) as bus, asyncio.TaskGroup() as tasks:
        trail = AuditTrail(bus)
        service: Service = ManagerService("agent_manager", bus, CommandAudit(bus, "agent_manager", trail))
        commands, queries = GenericVerbs(AgentManagerCommand.SUBJECT), GenericVerbs("agent.manager.query")
        commands.add("stop", StopAgent, stop)
        commands.add("status", ListTasks, page)
        service.handles(CancelTask, cancel)
        service.handles(ListTasks, page)
        service.handles(AgentManagerCommand, GenericSubjects(bus, commands, queries).command)
        storing = tasks.create_task(trail.run())
        async with service:
            yield bus
        storing.cancel()


async def entries(admin: Bus, holding: str, count: int) -> list[Audited]:
    """Return the audit entries that contain `holding`, when there are so many."""
    async with asyncio.timeout(PATIENCE_S):
        async for stored in MessageStore(admin).follow("AUDIT", "audit.agent_manager.*", recheck_s=1):
            del stored
            replayed = [decode(one.body, Audited) async for one in MessageStore(admin).replay("AUDIT", "audit.>")]
            found = [one for one in replayed if holding in one.what]
            if len(found) >= count:
                return found
    raise AssertionError


async def refused(bus: Bus, command: CancelTask) -> str:
    try:
        await bus.request(command, timeout_s=PATIENCE_S)
    except Fault as fault:
        return fault.code
    return "done"


async def test_command_of_a_person_is_audited_with_the_name_and_that_of_a_service_is_not(
    identity_server: IdentityServer,
) -> None:
    task_id = new_id("tsk")
    async with (
        manager(identity_server),
        identity_server.bus() as admin,
        identity_server.bus(NatsRole.OPERATOR, "ops-ann") as ann,
        identity_server.bus(NatsRole.MANAGEMENT_API) as api,
    ):
        assert await refused(api, CancelTask(task_id=task_id)) == "conflict"
        await ann.request(ListTasks(), timeout_s=PATIENCE_S)
        assert await refused(ann, CancelTask(task_id=task_id, reason="secret")) == "conflict"
        assert await refused(admin, CancelTask(task_id=task_id)) == "conflict"
        told = await entries(admin, task_id, 2)

    assert [(one.who, one.action, one.outcome, one.what) for one in told] == [
        (f"nats:{who}", "cancel-task", "refused", f"task.manager.command.cancel {task_id}")
        for who in ("ops-ann", "admin")
    ]
    assert (told[0].detail["status"], told[0].detail["code"]) == (409, "conflict")
    assert len(told[0].detail["trace_id"]) == 32
    assert "secret" not in msgspec.json.encode(told).decode()


async def test_generic_command_is_audited_with_its_verb_and_outcome(identity_server: IdentityServer) -> None:
    agent_id = new_id("agt")
    async with (
        manager(identity_server),
        identity_server.bus() as admin,
        identity_server.bus(NatsRole.OPERATOR) as operator,
    ):
        for verb in ("status", "stop", "no such verb"):
            said = AgentManagerCommand(command=verb, agent_id=agent_id)
            await operator.request(said, timeout_s=PATIENCE_S)
        told = await entries(admin, agent_id, 2)

    assert [(one.who, one.action, one.outcome, one.detail["code"]) for one in told] == [
        ("nats:operator", "stop-agent", "refused", "not_found"),
        ("nats:operator", "unrouted", "refused", "unknown_command"),
    ]
