"""SQL statements that read agents: one agent, pages, capabilities, and candidates for the choice of an agent."""

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any, Final

from sqlalchemy import (
    CTE,
    ColumnElement,
    Subquery,
    Text,
    and_,
    any_,
    bindparam,
    case,
    exists,
    func,
    not_,
    select,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY

from muster.agent_manager.database.conditions import any_of
from muster.agent_manager.database.paging import newest_before, page_values
from muster.agent_manager.database.rows import fields
from muster.agent_manager.database.tables import agents, attempts
from muster.agent_manager.fleet.domain.agents import AgentRecord
from muster.agent_manager.fleet.domain.selection import MOST_EXPLAINED, AgentRequirements
from muster.agent_manager.tasks.domain.states import LIVE
from muster.common.contracts.agent_registry import ListAgents
from muster.common.contracts.limits import MOST_PAGE_BYTES
from muster.common.postgres.reading import Read, Reader, Rows, first_bytes

Loaded = tuple[AgentRecord, int]
"""An agent and the number of its live attempts."""

_LIVE = any_of(attempts.c.state, LIVE)
_FILTERS: Final = {
    "usable": agents.c.package == any_(bindparam("usable", type_=ARRAY(Text))),
    "state": agents.c.state == bindparam("state"),
    "package": agents.c.package == bindparam("package"),
    "mode": agents.c.mode == bindparam("mode"),
    "capabilities": agents.c.capabilities.contains(bindparam("capabilities")),
    "labels": agents.c.labels.contains(bindparam("labels")),
    "name_starts": agents.c.name.bool_op("^@")(bindparam("name_starts")),
}
# This expression orders agents by readiness. The function `domain.selection.choose` orders them by the same rule.
_READINESS: Final = case(
    (agents.c.desired != "running", 2), (agents.c.state == "idle", 0), (agents.c.state == "running", 1), else_=2
)
_OLDEST_FIRST = (agents.c.created_at, agents.c.agent_id)


def _loaded(agent: Subquery) -> ColumnElement[Any]:
    """Return the SQL expression for an agent and the number of its live attempts as a JSON array."""
    live = select(func.count()).where(attempts.c.agent_id == agent.c.agent_id, _LIVE).scalar_subquery()
    return func.json_build_array(agent.table_valued(), live)


def _one() -> Rows:
    known = (agents.c.agent_id == bindparam("agent_id")) & agents.c.deleted_at.is_(None)
    return select(_loaded(select(*fields(agents)).where(known).subquery("a")))


def _capabilities() -> Rows:
    name = func.unnest(agents.c.capabilities).label("name")
    each = select(name).where(agents.c.deleted_at.is_(None)).subquery("each")
    return select(func.json_build_array(each.c.name, func.count())).group_by(each.c.name)


_ONE = Read(_one(), Loaded)
_CAPABILITIES = Read(_capabilities(), tuple[str, int])


async def one(reader: Reader, agent_id: str) -> Loaded | None:
    """Return the agent with this id and its number of live attempts, or None."""
    return await reader.one(_ONE, agent_id=agent_id)


async def capabilities(reader: Reader) -> dict[str, int]:
    """Return the number of agents that have each capability."""
    return dict(await reader.all(_CAPABILITIES))


async def page(
    reader: Reader, wanted: ListAgents, *, before: tuple[datetime, str] | None, limit: int
) -> tuple[list[Loaded], bool]:
    """Return one page of agents created before `before`, newest first, and True if older agents remain."""
    given = _given(
        state=wanted.state,
        package=wanted.package,
        mode=wanted.mode,
        capabilities=None if wanted.capability is None else [wanted.capability],
        labels=wanted.labels or None,
        name_starts=wanted.name_starts or None,
    )
    found = await reader.all(_page(*given), **given, **page_values(before, limit))
    on_page = [loaded for loaded, _ in found[:limit]]
    return on_page, bool(found) and found[0][1] > len(on_page)


async def candidates(reader: Reader, wanted: AgentRequirements, *, usable: Sequence[str]) -> list[Loaded]:
    """Return up to 100 agents: the best that fit, then agents that do not fit, the wanted package's agents first."""
    given = _given(
        usable=list(usable),
        mode=wanted.mode,
        capabilities=list(wanted.capabilities) or None,
        labels=wanted.labels or None,
        package=wanted.package,
    )
    return await reader.all(_choice(*given), **given)


def _given(**filters: object) -> dict[str, object]:
    return {name: value for name, value in filters.items() if value is not None}


@cache
def _page(*filters: str) -> Read[tuple[Loaded, int]]:
    """Build the statement for a page of agents with only the given filters, so that PostgreSQL can use an index."""
    filtered = select(*fields(agents)).where(agents.c.deleted_at.is_(None), *(_FILTERS[name] for name in filters))
    agent = newest_before(filtered, agents.c.created_at, agents.c.agent_id).subquery("a")
    entries = select(_loaded(agent).label("entry"), agent.c.created_at, agent.c.agent_id)
    page = first_bytes(entries, newest_by=("created_at", "agent_id"), most=MOST_PAGE_BYTES)
    return Read(page, tuple[Loaded, int])


@cache
def _choice(*filters: str) -> Read[Loaded]:
    """Build the statement that reads the candidates, with only the given filters.

    If at least `MOST_EXPLAINED` fitting agents wait for work, the oldest of these agents are the best. Only if fewer
    wait, PostgreSQL must order all fitting agents.
    """
    kept = agents.c.deleted_at.is_(None)
    fits = and_(kept, *(_FILTERS[name] for name in filters), agents.c.state != "quarantined")
    fitting = _fitting(fits)
    other = select(*fields(agents)).where(kept, not_(fits)).order_by(*_OLDEST_FIRST)
    room = MOST_EXPLAINED - _number(fitting)
    if "package" not in filters:
        return Read(_union(fitting, other.limit(room).cte("far")), Loaded)
    near = other.where(_FILTERS["package"]).limit(room).cte("near")
    far = other.where(not_(_FILTERS["package"])).limit(room - _number(near)).cte("far")
    return Read(_union(fitting, near, far), Loaded)


def _fitting(fits: ColumnElement[bool]) -> CTE:
    """Return the common table expression that reads the best fitting agents, at most `MOST_EXPLAINED`."""
    busy = exists().where(attempts.c.agent_id == agents.c.agent_id, _LIVE)
    ready = (agents.c.desired == "running") & (agents.c.state == "idle") & ~busy
    waiting = select(*fields(agents)).where(fits, ready).order_by(*_OLDEST_FIRST).limit(MOST_EXPLAINED).cte("waiting")
    load = select(attempts.c.agent_id, func.count().label("live")).where(_LIVE).group_by(attempts.c.agent_id)
    load = load.subquery("load")
    ordered = (
        select(agents.c.agent_id)
        .outerjoin(load, load.c.agent_id == agents.c.agent_id)
        .where(fits, _number(waiting) < MOST_EXPLAINED)
        .order_by(_READINESS, func.coalesce(load.c.live, 0), *_OLDEST_FIRST)
        .limit(MOST_EXPLAINED)
        .cte("ordered")
    )
    best = func.array(select(ordered.c.agent_id).scalar_subquery(), type_=ARRAY(Text))
    return union_all(
        select(waiting).where(_number(waiting) >= MOST_EXPLAINED),
        select(*fields(agents)).where(agents.c.agent_id == any_(best)),
    ).cte("fitting")


def _union(*parts: CTE) -> Rows:
    return select(_loaded(union_all(*(select(part) for part in parts)).subquery("a")))


def _number(part: CTE) -> ColumnElement[int]:
    return select(func.count()).select_from(part).scalar_subquery()
