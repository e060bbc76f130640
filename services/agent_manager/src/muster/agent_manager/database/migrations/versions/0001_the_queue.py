"""Tasks, attempts, the outbox, replacements.

Revision ID: 0001
"""

from collections.abc import Iterable

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0001"
down_revision = None

SCHEMA = "manager"
TASK_STATES = (
    *("blocked", "queued", "assigned", "running", "validating", "retrying"),
    *("completed", "failed", "cancelled", "escalated"),
)
ATTEMPT_STATES = ["intent", "creating", "running", "finished", "lost", "fenced"]
STEPS = ["fence", "evidence", "stop", "reopen", "done"]

_moment = sa.DateTime(timezone=True)


def _one_of(column: str, values: Iterable[str]) -> sa.CheckConstraint:
    return sa.CheckConstraint(f"{column} IN ({', '.join(repr(value) for value in values)})")


def upgrade() -> None:
    _create_agents()
    _create_tasks()
    _create_attempts()
    _create_replacements()
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("task_id", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("event_id", sa.String(64), nullable=False, unique=True),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("created_at", _moment, nullable=False),
        sa.UniqueConstraint("task_id", "version"),
        schema=SCHEMA,
    )
    op.create_table(
        "consumed",
        sa.Column("stream", sa.String(64), primary_key=True),
        sa.Column("event_id", sa.String(128), primary_key=True),
        sa.Column("at", _moment, nullable=False, index=True),
        schema=SCHEMA,
    )


def _create_agents() -> None:
    op.create_table(
        "agents",
        sa.Column("agent_id", sa.String(64), primary_key=True),
        sa.Column("package", sa.String(64), nullable=False),
        sa.Column("is_default", sa.Boolean, nullable=False),
        sa.Column("created_at", _moment, nullable=False),
        schema=SCHEMA,
    )
    default = sa.text("is_default")
    op.create_index("one_default_agent", "agents", ["package"], unique=True, schema=SCHEMA, postgresql_where=default)


def _create_tasks() -> None:
    op.create_table(
        "tasks",
        sa.Column("task_id", sa.String(64), primary_key=True),
        sa.Column("agent_id", sa.String(64), sa.ForeignKey(f"{SCHEMA}.agents.agent_id")),
        sa.Column("package", sa.String(64), nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("objective", sa.Text, nullable=False),
        sa.Column("repo", JSONB),
        sa.Column("test_command", sa.Text),
        sa.Column("paths", JSONB, nullable=False),
        sa.Column("timeout_s", sa.Double, nullable=False),
        sa.Column("priority", sa.String(16), nullable=False),
        sa.Column("project", sa.Text, nullable=False),
        sa.Column("labels", JSONB, nullable=False),
        sa.Column("depends_on", ARRAY(sa.String(64)), nullable=False),
        sa.Column("ticket_id", sa.String(255)),
        sa.Column("phase_id", sa.String(255)),
        sa.Column("metadata", JSONB, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("sandbox_id", sa.String(255), index=True),
        sa.Column("conversation_id", sa.String(255)),
        sa.Column("persistence_dir", sa.Text),
        sa.Column("created_at", _moment, nullable=False),
        sa.Column("updated_at", _moment, nullable=False),
        sa.Column("summary", sa.Text),
        sa.Column("diff", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("validation", sa.Text),
        _one_of("state", TASK_STATES),
        schema=SCHEMA,
    )
    # Few rows are open at any time, many are not.
    is_open = sa.text("state NOT IN ('completed', 'failed', 'cancelled')")
    op.create_index("open_tasks", "tasks", ["state"], schema=SCHEMA, postgresql_where=is_open)
    op.create_index("tasks_by_age", "tasks", ["created_at", "task_id"], schema=SCHEMA)


def _create_attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("attempt_id", sa.String(64), primary_key=True),
        sa.Column("task_id", sa.String(64), sa.ForeignKey(f"{SCHEMA}.tasks.task_id"), nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("agent_id", sa.String(64), nullable=False),
        sa.Column("sandbox_id", sa.String(255), nullable=False, unique=True),
        sa.Column("conversation_id", sa.String(255), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("exit_code", sa.Integer),
        sa.Column("outcome", sa.String(16)),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("model_calls", sa.Integer, nullable=False),
        sa.Column("cost_usd", sa.Double, nullable=False),
        sa.Column("created_at", _moment, nullable=False),
        sa.Column("creating_at", _moment),
        sa.Column("opened_at", _moment),
        sa.Column("deadline", _moment),
        sa.Column("ended_at", _moment),
        sa.Column("sandbox_deleted_at", _moment),
        sa.UniqueConstraint("task_id", "epoch"),
        _one_of("state", ATTEMPT_STATES),
        schema=SCHEMA,
    )
    # I1, kept by the database: a task has at most one live epoch.
    live = sa.text("state IN ('intent', 'creating', 'running')")
    op.create_index("one_live_epoch", "attempts", ["task_id"], unique=True, schema=SCHEMA, postgresql_where=live)
    undeleted = sa.text("sandbox_deleted_at IS NULL")
    op.create_index("sandboxes_left", "attempts", ["state"], schema=SCHEMA, postgresql_where=undeleted)


def _create_replacements() -> None:
    op.create_table(
        "replacements",
        sa.Column("task_id", sa.String(64), sa.ForeignKey(f"{SCHEMA}.tasks.task_id"), primary_key=True),
        sa.Column("epoch", sa.Integer, primary_key=True),
        sa.Column("agent_id", sa.String(64), nullable=False),
        sa.Column("sandbox_id", sa.String(255), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("decision_id", sa.String(255)),
        sa.Column("ends", sa.String(16), nullable=False),
        sa.Column("then", sa.String(16), nullable=False),
        sa.Column("step", sa.String(16), nullable=False),
        sa.Column("evidence", JSONB),
        sa.Column("created_at", _moment, nullable=False),
        sa.Column("finished_at", _moment),
        _one_of("step", STEPS),
        schema=SCHEMA,
    )
    unfinished = sa.text("step <> 'done'")
    op.create_index("replacements_left", "replacements", ["step"], schema=SCHEMA, postgresql_where=unfinished)


def downgrade() -> None:
    for table in ("consumed", "outbox", "replacements", "attempts", "tasks", "agents"):
        op.drop_table(table, schema=SCHEMA)
