"""SQL statements about agents. Each change increments `version` and is stored together with its event."""

from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256

import msgspec
from sqlalchemy import Text, all_, and_, column, exists, func, literal, or_, select, update
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.elements import ColumnElement

from muster.agent_manager.database.conditions import any_of, none_of
from muster.agent_manager.database.rows import fields, record
from muster.agent_manager.database.tables import agents, attempts, tasks
from muster.agent_manager.database.transaction import Transaction
from muster.agent_manager.fleet.domain.agents import TAKES_TASKS, AgentRecord, all_capabilities
from muster.agent_manager.tasks.domain.states import LIVE, TASK_ENDS
from muster.common.contract import encode
from muster.common.contracts.agent_messages import MessageResult
from muster.common.contracts.agent_spec import AgentSpec
from muster.common.contracts.agents import AgentChanged
from muster.common.contracts.packages import Manifest
from muster.common.faults import Conflict
from muster.common.ids import derived_id
from muster.common.storable_values import without_nul

PORTION = 200


class NameTaken(Conflict):
    """Another agent has the requested name already."""


def default_id(package: str) -> str:
    """Return the id of a package's default agent. It is derived from the package's name, so all replicas agree."""
    return derived_id("agt", sha256(f"default agent of {package}".encode()).digest())


async def read(tx: Transaction, agent_id: str) -> AgentRecord | None:
    """Return one agent without locking it; None if it does not exist or was deleted."""
    found = await stored(tx, agent_id)
    return None if found is None or found.deleted_at else found


async def share(tx: Transaction, agent_id: str) -> AgentRecord | None:
    """Return one agent under a shared lock, so that no other transaction can change it; None if it does not exist."""
    query = select(*fields(agents)).where(agents.c.agent_id == agent_id, agents.c.deleted_at.is_(None))
    row = (await tx.connection.execute(query.with_for_update(read=True))).mappings().one_or_none()
    return None if row is None else record(row, AgentRecord)


async def lock(tx: Transaction, agent_id: str) -> AgentRecord | None:
    """Return one agent and lock its row until the transaction ends; None if it does not exist or was deleted."""
    found = await stored(tx, agent_id, held=True)
    return None if found is None or found.deleted_at else found


async def stored(tx: Transaction, agent_id: str, *, held: bool = False) -> AgentRecord | None:
    """Return the row of an agent, even if the agent was deleted; with `held`, lock the row."""
    query = select(*fields(agents)).where(agents.c.agent_id == agent_id)
    query = query.with_for_update() if held else query
    row = (await tx.connection.execute(query)).mappings().one_or_none()
    return None if row is None else record(row, AgentRecord)


async def named(tx: Transaction, name: str) -> AgentRecord | None:
    """Return the agent with this name, or None."""
    query = select(*fields(agents)).where(agents.c.name == name, agents.c.deleted_at.is_(None))
    row = (await tx.connection.execute(query)).mappings().one_or_none()
    return None if row is None else record(row, AgentRecord)


async def add(tx: Transaction, agent: AgentRecord) -> bool:
    """Store a new agent with its first event; return False if its id or its name is taken."""
    row = msgspec.to_builtins(agent, builtin_types=(datetime,)) | _spec_columns(agent.spec)
    first = insert(agents).values(without_nul(row)).on_conflict_do_nothing().returning(agents.c.agent_id)
    if (await tx.connection.execute(first)).scalar_one_or_none() is None:
        return False
    await _tell(tx, agent, "registered")
    return True


async def change(tx: Transaction, agent: AgentRecord, kind: str, **fields: object) -> AgentRecord:
    """Store `fields` of a locked agent, and an event with this kind, for example `updated` or the new state."""
    changed = {"version": agent.version + 1, "updated_at": tx.now, **without_nul(fields)}
    if changed.get("state", agent.state) != agent.state:
        changed.setdefault("state_since", tx.now)
    after = await note(tx, agent, **changed)
    await _tell(tx, after, kind)
    return after


async def tell_outcome(tx: Transaction, agent: AgentRecord, message: MessageResult) -> AgentRecord:
    """Store an event with the outcome of a message to a locked agent, and return the agent with its new version.

    The relay publishes only events with a new version.
    """
    after = await note(tx, agent, version=agent.version + 1, updated_at=tx.now)
    await _tell(tx, after, f"message-{message.state}", message)
    return after


async def delete(tx: Transaction, agent: AgentRecord) -> None:
    """Mark a locked agent as deleted. The manager that owns the agent later removes its processes and files."""
    deletions = agent.deletions + (agent.mode == "process")
    await change(tx, agent, "deleted", desired="stopped", state="stopped", deleted_at=tx.now, deletions=deletions)


async def revive(tx: Transaction, deleted: AgentRecord, agent: AgentRecord) -> AgentRecord:
    """Store `agent` in the row of a deleted agent with this id. The row keeps its version and launch numbers."""
    fields = msgspec.structs.asdict(agent)
    for kept in ("agent_id", "version", "launch", "min_launch", "owner", "fence", "deletions", "cleanups"):
        del fields[kept]
    return await change(tx, deleted, "registered", **fields)


async def note(tx: Transaction, agent: AgentRecord, **fields: object) -> AgentRecord:
    """Store columns of an agent without an event, without a new version, and without waking a loop."""
    fields = without_nul(fields)
    row = fields | _spec_columns(spec) if isinstance(spec := fields.get("spec"), AgentSpec) else fields
    try:
        await tx.connection.execute(update(agents).where(agents.c.agent_id == agent.agent_id).values(**row))
    except IntegrityError as error:
        if "agents_by_name" not in str(error.orig):
            raise
        taken = f"the name {row.get('name')!r} belongs to another agent; choose another name"
        raise NameTaken(taken, field="$.name") from None
    return msgspec.structs.replace(agent, **fields)


def _spec_columns(spec: AgentSpec) -> dict[str, object]:
    """Return the values of the column `spec`, and of the columns that repeat fields of the spec for queries."""
    whole = msgspec.to_builtins(spec)
    return {"spec": whole, **{name: whole[name] for name in ("name", "mode", "labels")}}


async def open_tasks(tx: Transaction, agent_id: str) -> int:
    """Return the number of unfinished tasks that name this agent or that this agent works on."""
    working = and_(tasks.c.agent_id == agent_id, tasks.c.state.not_in(("blocked", "queued")))
    mine = or_(tasks.c.wanted_agent_id == agent_id, working)
    query = select(func.count()).select_from(tasks).where(mine, none_of(tasks.c.state, TASK_ENDS))
    return (await tx.connection.execute(query)).scalar_one()


async def live_tasks(tx: Transaction, agent_ids: Sequence[str]) -> dict[str, int]:
    """Return the number of live attempts of each of these agents."""
    query = (
        select(attempts.c.agent_id, func.count())
        .where(attempts.c.agent_id.in_(agent_ids), any_of(attempts.c.state, LIVE))
        .group_by(attempts.c.agent_id)
    )
    counted = {row[0]: row[1] for row in await tx.connection.execute(query)}
    return {agent_id: counted.get(agent_id, 0) for agent_id in agent_ids}


async def any_taker(tx: Transaction, package: str) -> bool:
    """Return whether any agent of the package has the desired state `running` and may get tasks."""
    return (await tx.connection.execute(select(exists().where(_taking(package))))).scalar_one()


async def taker(tx: Transaction, package: str) -> str | None:
    """Return the agent for a task that names only a package: its default agent, or the one with the fewest attempts."""
    takes = and_(_taking(package), agents.c.state.in_(TAKES_TASKS))
    default = select(agents.c.agent_id).where(agents.c.agent_id == default_id(package), takes)
    if (agent_id := (await tx.connection.execute(default)).scalar_one_or_none()) is not None:
        return agent_id
    live = select(func.count()).where(attempts.c.agent_id == agents.c.agent_id, any_of(attempts.c.state, LIVE))
    query = (
        select(agents.c.agent_id)
        .where(takes)
        .order_by(live.scalar_subquery(), agents.c.created_at, agents.c.agent_id)
        .limit(1)
    )
    return (await tx.connection.execute(query)).scalar_one_or_none()


def _taking(package: str) -> ColumnElement[bool]:
    return and_(
        agents.c.package == package,
        agents.c.deleted_at.is_(None),
        agents.c.mode == "sandbox",
        agents.c.desired == "running",
        agents.c.state != "quarantined",
    )


async def ensure_default(tx: Transaction, manifest: Manifest) -> None:
    """Create the default agent of a package if it does not exist. This agent runs tasks that name only the package."""
    agent_id = default_id(manifest.name)
    there = await stored(tx, agent_id, held=True)
    if "sandbox" not in manifest.modes or (there is not None and there.deleted_at is None):
        return
    if there is not None:
        name = manifest.name if await named(tx, manifest.name) is None else agent_id
        await revive(tx, there, _default(tx, agent_id, name, manifest))
    elif not await add(tx, _default(tx, agent_id, manifest.name, manifest)):
        # Another agent has the package's name, so the default agent is named by its id. If another manager has already
        # stored the default agent, this call stores nothing.
        await add(tx, _default(tx, agent_id, agent_id, manifest))


async def follow_package(tx: Transaction, manifest: Manifest) -> bool:
    """Update at most 200 agents whose package now declares other values; return whether any agent was updated."""
    offered = [capability.name for capability in manifest.capabilities]
    behind = or_(
        agents.c.agent_type != manifest.type,
        agents.c.agent_version != manifest.version,
        agents.c.capabilities != _all_capabilities(offered),
    )
    query = (
        select(*fields(agents))
        .where(agents.c.package == manifest.name, agents.c.deleted_at.is_(None), behind)
        .order_by(agents.c.agent_id)
        .limit(PORTION)
        .with_for_update()
    )
    found = [record(row, AgentRecord) for row in (await tx.connection.execute(query)).mappings()]
    for agent in found:
        capabilities = all_capabilities(offered, agent.spec.capabilities)
        said = {"agent_type": manifest.type, "agent_version": manifest.version, "capabilities": capabilities}
        await change(tx, agent, "updated", **said)
    return bool(found)


def _all_capabilities(package: list[str]) -> ColumnElement[list[str]]:
    """Return the SQL expression for an agent's capabilities, by the same rule as `all_capabilities`."""
    offered = literal(package, ARRAY(Text))
    declared = func.jsonb_array_elements_text(agents.c.spec["capabilities"])
    own = declared.table_valued(column("name", Text), with_ordinality="n").render_derived(name="own")
    others = select(own.c.name).where(own.c.name != all_(offered)).order_by(own.c.n).correlate(agents)
    return offered.concat(func.array(others.scalar_subquery(), type_=ARRAY(Text)))


def _default(tx: Transaction, agent_id: str, name: str, manifest: Manifest) -> AgentRecord:
    return AgentRecord(
        agent_id=agent_id,
        spec=AgentSpec(name=name, mode="sandbox"),
        package=manifest.name,
        is_default=True,
        agent_type=manifest.type,
        agent_version=manifest.version,
        capabilities=[capability.name for capability in manifest.capabilities],
        desired="running",
        state="idle",
        state_since=tx.now,
        cites="registered",
        created_at=tx.now,
        updated_at=tx.now,
    )


async def _tell(tx: Transaction, agent: AgentRecord, kind: str, message: MessageResult | None = None) -> None:
    await tx.tell(changed(agent, kind, event_id=tx.new_id("evt"), at=tx.now, message=message), of=agent.agent_id)


def changed(
    agent: AgentRecord, kind: str, *, event_id: str, at: datetime, message: MessageResult | None = None
) -> AgentChanged:
    """Return the event that announces the present state of an agent, or the outcome of a message to it."""
    return AgentChanged(
        agent_id=agent.agent_id,
        kind=kind,
        event_id=event_id,
        version=agent.version,
        at=at,
        state=agent.state,
        desired=agent.desired,
        body=msgspec.Raw(encode(_told(agent, message))),
    )


def _told(agent: AgentRecord, message: MessageResult | None) -> dict[str, object]:
    told = {
        "name": agent.name,
        "package": agent.package,
        "mode": agent.mode,
        "launch": agent.launch,
        "cites": agent.cites,
        "reason": agent.reason,
        "exit_code": agent.exit_code,
        "message": message,
    }
    return {name: value for name, value in told.items() if value is not None}
