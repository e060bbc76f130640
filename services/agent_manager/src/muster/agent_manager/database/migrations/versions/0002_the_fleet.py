"""Agents with names, modes, wishes and states; who keeps them; an outbox for tasks and agents alike.

Revision ID: 0002
"""

from collections.abc import Iterable

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0002"
down_revision = "0001"

SCHEMA = "manager"
STATES = (
    *("starting", "running", "idle", "degraded", "unresponsive", "stopping", "stopped"),
    *("error", "inactive", "quarantined"),
)

_moment = sa.DateTime(timezone=True)


def _quoted(values: Iterable[str]) -> str:
    return ", ".join(repr(value) for value in values)


def _columns() -> Iterable[sa.Column[object]]:
    """What an agent has gained. The defaults are for rows that are there already."""
    yield sa.Column("name", sa.String(64))
    for column in ("agent_type", "agent_version"):
        yield sa.Column(column, sa.String(64), nullable=False, server_default="")
    yield sa.Column("mode", sa.String(16), nullable=False, server_default="sandbox")
    yield sa.Column("capabilities", ARRAY(sa.Text), nullable=False, server_default="{}")
    yield sa.Column("config", JSONB, nullable=False, server_default="{}")
    yield sa.Column("labels", JSONB, nullable=False, server_default="{}")
    yield sa.Column("desired", sa.String(16), nullable=False, server_default="stopped")
    yield sa.Column("state", sa.String(16), nullable=False, server_default="stopped")
    yield sa.Column("state_since", _moment, nullable=False, server_default=sa.func.now())
    yield sa.Column("cites", sa.String(255), nullable=False, server_default="registered")
    yield sa.Column("reason", sa.Text)
    yield sa.Column("exit_code", sa.Integer)
    for column in ("launch", "restarts", "wished_launch", "fence"):
        yield sa.Column(column, sa.Integer, nullable=False, server_default="0")
    yield sa.Column("command_id", sa.String(64))
    yield sa.Column("owner", sa.String(64))
    yield sa.Column("pid", sa.Integer)
    yield sa.Column("last_seen", _moment)
    yield sa.Column("beat", JSONB)
    yield sa.Column("metrics", JSONB, nullable=False, server_default="{}")
    yield sa.Column("metrics_at", _moment)
    yield sa.Column("version", sa.Integer, nullable=False, server_default="1")
    yield sa.Column("updated_at", _moment, nullable=False, server_default=sa.func.now())
    yield sa.Column("deleted_at", _moment)


CHECKS = {
    "an_agents_mode": f"mode IN ({_quoted(('process', 'sandbox'))})",
    "an_agents_desired": f"desired IN ({_quoted(('running', 'stopped'))})",
    "an_agents_state": f"state IN ({_quoted(STATES)})",
}


def upgrade() -> None:
    for column in _columns():
        op.add_column("agents", column, schema=SCHEMA)
    # One per package so far, each of which took that package's tasks.
    op.execute("""
        UPDATE manager.agents
        SET name = CASE WHEN is_default THEN package ELSE agent_id END,
            state_since = created_at, updated_at = created_at,
            desired = CASE WHEN is_default THEN 'running' ELSE 'stopped' END,
            state = CASE WHEN is_default THEN 'idle' ELSE 'stopped' END
    """)
    op.alter_column("agents", "name", nullable=False, schema=SCHEMA)
    for name, check in CHECKS.items():
        op.create_check_constraint(name, "agents", sa.text(check), schema=SCHEMA)
    _create_indexes()
    _create_keepers()
    op.alter_column("outbox", "task_id", new_column_name="entity_id", schema=SCHEMA)
    # Beats are written often, and none of what they write is indexed: leave them room on the row's own page.
    op.execute("ALTER TABLE manager.agents SET (fillfactor = 70)")


def _create_indexes() -> None:
    there = sa.text("deleted_at IS NULL")
    op.create_index(
        "agents_by_name",
        "agents",
        ["name"],
        unique=True,
        schema=SCHEMA,
        postgresql_where=there,
        postgresql_ops={"name": "text_pattern_ops"},
    )
    op.create_index("agents_by_age", "agents", ["created_at", "agent_id"], schema=SCHEMA, postgresql_where=there)
    op.create_index(
        "agents_by_package", "agents", ["package", "created_at", "agent_id"], schema=SCHEMA, postgresql_where=there
    )
    op.create_index("agents_by_capability", "agents", ["capabilities"], schema=SCHEMA, postgresql_using="gin")
    op.create_index(
        "agents_by_label",
        "agents",
        ["labels"],
        schema=SCHEMA,
        postgresql_using="gin",
        postgresql_ops={"labels": "jsonb_path_ops"},
    )
    # What a manager looks for at every change: what nobody keeps yet, and what it keeps itself.
    unkept = sa.text("owner IS NULL AND desired = 'running' AND mode = 'process'")
    op.create_index("agents_unkept", "agents", ["agent_id"], schema=SCHEMA, postgresql_where=unkept)
    kept = sa.text("owner IS NOT NULL")
    op.create_index("agents_kept", "agents", ["owner"], schema=SCHEMA, postgresql_where=kept)
    op.create_index("attempts_of_agent", "attempts", ["agent_id", "state"], schema=SCHEMA)


def _create_keepers() -> None:
    op.create_table(
        "agent_commands",
        sa.Column("command_id", sa.String(64), primary_key=True),
        sa.Column("agent_id", sa.String(64), nullable=False),
        sa.Column("verb", sa.String(16), nullable=False),
        sa.Column("at", _moment, nullable=False, index=True),
        schema=SCHEMA,
    )
    op.create_table(
        "managers",
        sa.Column("manager_id", sa.String(64), primary_key=True),
        sa.Column("fence", sa.Integer, nullable=False, server_default="0"),
        sa.Column("until", _moment, nullable=False),
        schema=SCHEMA,
    )
    op.create_table(
        "agent_launches",
        sa.Column("agent_id", sa.String(64), sa.ForeignKey(f"{SCHEMA}.agents.agent_id"), primary_key=True),
        sa.Column("launch", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("started_at", _moment, nullable=False),
        sa.Column("ended_at", _moment),
        sa.Column("exit_code", sa.Integer),
        sa.Column("signal", sa.String(16)),
        sa.Column("reason", sa.Text),
        sa.Column("log_offset", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("log_lines", sa.BigInteger, nullable=False, server_default="0"),
        schema=SCHEMA,
    )
    living = sa.text("ended_at IS NULL")
    op.create_index("launches_left", "agent_launches", ["agent_id"], schema=SCHEMA, postgresql_where=living)


def downgrade() -> None:
    # The release before this one publishes to one stream only, and would not know what these are.
    op.execute("DELETE FROM manager.outbox WHERE subject LIKE 'agent.%'")
    op.alter_column("outbox", "entity_id", new_column_name="task_id", schema=SCHEMA)
    for table in ("agent_launches", "managers", "agent_commands"):
        op.drop_table(table, schema=SCHEMA)
    op.drop_index("attempts_of_agent", "attempts", schema=SCHEMA)
    for index in (
        "agents_by_name",
        "agents_by_age",
        "agents_by_package",
        "agents_by_capability",
        "agents_by_label",
        "agents_unkept",
        "agents_kept",
    ):
        op.drop_index(index, "agents", schema=SCHEMA)
    for name in CHECKS:
        op.drop_constraint(name, "agents", schema=SCHEMA)
    for column in _columns():
        op.drop_column("agents", column.name, schema=SCHEMA)
    op.execute("ALTER TABLE manager.agents RESET (fillfactor)")
