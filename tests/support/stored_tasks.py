"""Stores tasks in a manager's tables without a manager: submits single tasks, or copies a task many times."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

from sqlalchemy import text

from muster.agent_manager.database.engine import ManagerDatabase, open_database
from muster.agent_manager.database.tables import tasks
from muster.agent_manager.fleet.domain.packages import Catalogue
from muster.agent_manager.fleet.store import agents
from muster.agent_manager.fleet.wiring import discovery
from muster.agent_manager.settings import ManagerSettings
from muster.agent_manager.tasks.adapters.sandbox_gateway import SandboxGatewayClient
from muster.agent_manager.tasks.handlers.submission import TaskSubmission
from muster.common.clock import utc_now
from muster.common.contracts.tasks import SubmitTask, TaskView
from muster.common.ids import new_id

CATALOGUE = Catalogue()
ECHO = agents.default_id("echo")


def settings(url: str, **fields: object) -> ManagerSettings:
    return ManagerSettings(nats_url="nats://nowhere", database_url=url, **fields)  # type: ignore[arg-type]


@asynccontextmanager
async def manager_database(url: str) -> AsyncGenerator[ManagerDatabase]:
    """Yield a database of the manager's newest schema, with the default agents of the installed packages."""
    async with open_database(url, now=utc_now, new_id=new_id) as database:
        await discovery(database, settings(url), CATALOGUE).look()
        yield database


async def submit(database: ManagerDatabase, **fields: Any) -> TaskView:
    told: dict[str, Any] = {"task_id": new_id("tsk"), "objective": "do it", "package": "echo", **fields}
    # A task without a model and a repository needs no request to the gateway.
    unasked = cast("SandboxGatewayClient", None)
    return await TaskSubmission(database, settings(database.url), CATALOGUE, unasked).submit(SubmitTask(**told))


async def execute(database: ManagerDatabase, statement: str, **values: object) -> None:
    async with database.begin() as tx:
        await tx.connection.execute(text(statement), values)


async def column(database: ManagerDatabase, query: str, **values: object) -> list[Any]:
    async with database.begin() as tx:
        return list((await tx.connection.execute(text(query), values)).scalars())


async def multiply(database: ManagerDatabase, task_id: str, number: int, **fields: str) -> None:
    """Store `number` copies of a task, each one second older; `fields` are SQL expressions with `n` as number."""
    changed = {"task_id": "'tsk_copy' || n", "created_at": "t.created_at - n * interval '1 second'", **fields}
    names = [column.name for column in tasks.c]
    told = ", ".join(changed.get(name, f"t.{name}") for name in names)
    await execute(
        database,
        f"""INSERT INTO manager.tasks ({", ".join(names)}) SELECT {told}
        FROM manager.tasks t, generate_series(1, :number) n WHERE t.task_id = :task_id""",
        task_id=task_id,
        number=number,
    )
