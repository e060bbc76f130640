"""Reads of agents: one, pages, their capabilities, and candidates for a choice."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from muster.agent_manager.fleet.domain.agents import AgentRecord
from muster.agent_manager.fleet.domain.selection import MOST_EXPLAINED, AgentRequirements
from muster.agent_manager.tasks.domain.states import LIVE
from muster.common.contract import encode
from muster.common.contracts.agent_registry import ListAgents
from muster.common.contracts.limits import MOST_PAGE_BYTES
from muster.common.postgres.reading import Read, Reader, first_bytes

Loaded = tuple[AgentRecord, int]
"""An agent and the number of its live attempts."""

_LIVE = f"t.state IN ({', '.join(repr(state) for state in sorted(LIVE))})"
_LOADED = (
    "json_build_array(a, (SELECT count(*) FROM manager.attempts t"  # noqa: S608 - constants
    f" WHERE t.agent_id = a.agent_id AND {_LIVE}))"
)
_ONE = Read(f"SELECT {_LOADED} FROM manager.agents a WHERE a.agent_id = $1 AND a.deleted_at IS NULL", Loaded)  # noqa: S608
_SEVERAL = Read(
    first_bytes(
        f"""SELECT {_LOADED} AS entry, array_position($1::text[], a.agent_id::text) AS asked
        FROM manager.agents a WHERE a.agent_id = ANY ($1::text[]) AND a.deleted_at IS NULL""",  # noqa: S608 - constants
        order="asked",
        most=MOST_PAGE_BYTES,
    ),
    tuple[Loaded, int],
)
_CAPABILITIES = Read(
    """SELECT json_build_array(name, count(*)) FROM (
        SELECT unnest(capabilities) AS name FROM manager.agents WHERE deleted_at IS NULL
    ) each GROUP BY name""",
    tuple[str, int],
)
# The same order as in `domain.selection.choose`.
_READINESS: Final = """CASE WHEN a.desired <> 'running' THEN 2 WHEN a.state = 'idle' THEN 0
    WHEN a.state = 'running' THEN 1 ELSE 2 END"""
_AFTER_ALL = (datetime.max.replace(tzinfo=UTC), "")


async def one(reader: Reader, agent_id: str) -> Loaded | None:
    """Return one agent, or None."""
    return await reader.one(_ONE, agent_id)


async def several(reader: Reader, agent_ids: Sequence[str]) -> list[Loaded]:
    """Return the agents of `agent_ids` that exist, in that order, as many as fit into one reply."""
    return [loaded for loaded, _ in await reader.all(_SEVERAL, agent_ids)]


async def capabilities(reader: Reader) -> dict[str, int]:
    """Return how many agents have each capability."""
    return dict(await reader.all(_CAPABILITIES))


async def page(
    reader: Reader, wanted: ListAgents, *, before: tuple[datetime, str] | None, limit: int
) -> tuple[list[Loaded], bool]:
    """Return agents older than `before`, newest first, and whether there are more, as many as fit into a reply."""
    clauses, values = _clauses(
        ("a.state = {}", wanted.state),
        ("a.package = {}", wanted.package),
        ("a.mode = {}", wanted.mode),
        ("a.capabilities @> {}::text[]", None if wanted.capability is None else [wanted.capability]),
        ("a.labels @> {}::jsonb", encode(wanted.labels).decode() if wanted.labels else None),
        ("a.name ^@ {}", wanted.name_starts or None),
        first=4,
    )
    rows = f"""
        SELECT {_LOADED} AS entry, a.created_at, a.agent_id FROM (
            SELECT * FROM manager.agents a WHERE {clauses} AND (a.created_at, a.agent_id) < ($1, $2)
            ORDER BY a.created_at DESC, a.agent_id DESC LIMIT $3
        ) a"""  # noqa: S608 - constants
    statement = first_bytes(rows, order="created_at DESC, agent_id DESC", most=MOST_PAGE_BYTES)
    read = Read(statement, tuple[Loaded, int])
    found = await reader.all(read, *(before or _AFTER_ALL), limit + 1, *values)
    on_page = [loaded for loaded, _ in found[:limit]]
    return on_page, bool(found) and found[0][1] > len(on_page)


async def candidates(reader: Reader, wanted: AgentRequirements, *, usable: Sequence[str]) -> list[Loaded]:
    """Return the best agents that fit, and if there is room some that do not: first of the wanted package."""
    fits, values = _clauses(
        ("a.package = ANY ({}::text[])", list(usable)),
        ("a.package = {}", wanted.package),
        ("a.mode = {}", wanted.mode),
        ("a.capabilities @> {}::text[]", list(wanted.capabilities) or None),
        ("a.labels @> {}::jsonb", encode(wanted.labels).decode() if wanted.labels else None),
        first=3,
    )
    return await reader.all(Read(_choice(fits), Loaded), wanted.package, MOST_EXPLAINED, *values)


def _clauses(*wanted: tuple[str, object], first: int) -> tuple[str, list[object]]:
    """Return the SQL of the given filters and their values, numbered from `first`; the texts are all constants."""
    given = [(clause, value) for clause, value in wanted if value is not None]
    texts = [clause.format(f"${number}") for number, (clause, _) in enumerate(given, first)]
    return " AND ".join(["a.deleted_at IS NULL", *texts]), [value for _, value in given]


def _choice(fits: str) -> str:
    """Return the statement.

    Usually many agents wait for work and the oldest of them are best; else all must be ordered.
    """
    fits = f"{fits} AND a.state <> 'quarantined'"
    oldest = "ORDER BY a.created_at, a.agent_id LIMIT"
    return f"""
        WITH waiting AS (
            SELECT a.* FROM manager.agents a WHERE {fits} AND a.desired = 'running' AND a.state = 'idle'
            AND NOT EXISTS (SELECT FROM manager.attempts t WHERE t.agent_id = a.agent_id AND {_LIVE}) {oldest} $2
        ), ordered AS (
            SELECT a.agent_id FROM manager.agents a LEFT JOIN (
                SELECT t.agent_id, count(*) AS live FROM manager.attempts t WHERE {_LIVE} GROUP BY t.agent_id
            ) load ON load.agent_id = a.agent_id
            WHERE {fits} AND (SELECT count(*) FROM waiting) < $2
            ORDER BY {_READINESS}, coalesce(load.live, 0), a.created_at, a.agent_id LIMIT $2
        ), fitting AS (
            SELECT a.* FROM waiting a WHERE (SELECT count(*) FROM waiting) >= $2
            UNION ALL SELECT a.* FROM manager.agents a WHERE a.agent_id = ANY (ARRAY(SELECT agent_id FROM ordered))
        ), near AS (
            SELECT a.* FROM manager.agents a WHERE a.deleted_at IS NULL AND NOT ({fits}) AND a.package = $1
            {oldest} $2 - (SELECT count(*) FROM fitting)
        ), far AS (
            SELECT a.* FROM manager.agents a WHERE a.deleted_at IS NULL AND NOT ({fits})
            AND ($1::text IS NULL OR a.package <> $1)
            {oldest} $2 - (SELECT count(*) FROM fitting) - (SELECT count(*) FROM near)
        )
        SELECT {_LOADED} FROM (
            SELECT * FROM fitting UNION ALL SELECT * FROM near UNION ALL SELECT * FROM far
        ) a"""  # noqa: S608 - constants
