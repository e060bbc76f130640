"""SQLAlchemy's definitions of the tables, from which SQL statements are built; migrations create the tables.

Three columns of `agents` have a `key`, a second name that statements and `AgentRecord` use. In the database these
columns keep their old names, because the previous release, which may run at the same time, uses the old names.
"""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

SCHEMA = "manager"
LONGEST_ISOLATION = 32
"""The length of the column `isolation`, in characters."""

metadata = sa.MetaData(schema=SCHEMA)

_moment = sa.DateTime(timezone=True)

agents = sa.Table(
    "agents",
    metadata,
    sa.Column("agent_id", sa.String(64), primary_key=True),
    sa.Column("package", sa.String(64), nullable=False),
    sa.Column("is_default", sa.Boolean, nullable=False),
    sa.Column("created_at", _moment, nullable=False),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("agent_type", sa.String(64), nullable=False),
    sa.Column("agent_version", sa.String(64), nullable=False),
    sa.Column("mode", sa.String(16), nullable=False),
    sa.Column("capabilities", ARRAY(sa.Text), nullable=False),
    sa.Column("spec", JSONB, nullable=False),
    sa.Column("labels", JSONB, nullable=False),
    sa.Column("desired", sa.String(16), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("state_since", _moment, nullable=False),
    sa.Column("cites", sa.String(255), nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("exit_code", sa.Integer),
    sa.Column("launch", sa.Integer, nullable=False),
    sa.Column("restarts", sa.Integer, nullable=False),
    sa.Column("wished_launch", sa.Integer, key="min_launch", nullable=False),
    sa.Column("fence", sa.Integer, nullable=False),
    sa.Column("command_id", sa.String(64)),
    sa.Column("owner", sa.String(64)),
    sa.Column("pid", sa.Integer),
    sa.Column("last_seen", _moment),
    sa.Column("beat", JSONB(none_as_null=True)),
    sa.Column("metrics", JSONB, nullable=False),
    sa.Column("metrics_at", _moment),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("updated_at", _moment, nullable=False),
    sa.Column("deleted_at", _moment),
    sa.Column("deaths", sa.Integer, key="deletions", nullable=False),
    sa.Column("burials", sa.Integer, key="cleanups", nullable=False),
)

agent_commands = sa.Table(
    "agent_commands",
    metadata,
    sa.Column("command_id", sa.String(64), primary_key=True),
    sa.Column("agent_id", sa.String(64), nullable=False),
    sa.Column("verb", sa.String(16), nullable=False),
    sa.Column("at", _moment, nullable=False),
)

managers = sa.Table(
    "managers",
    metadata,
    sa.Column("manager_id", sa.String(64), primary_key=True),
    sa.Column("fence", sa.Integer, nullable=False),
    sa.Column("until", _moment, nullable=False),
)

agent_launches = sa.Table(
    "agent_launches",
    metadata,
    sa.Column("agent_id", sa.String(64), primary_key=True),
    sa.Column("launch", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("key", sa.String(255), nullable=False),
    sa.Column("started_at", _moment, nullable=False),
    sa.Column("ended_at", _moment),
    sa.Column("exit_code", sa.Integer),
    sa.Column("signal", sa.String(16)),
    sa.Column("reason", sa.Text),
    sa.Column("log_offset", sa.BigInteger, nullable=False, default=0),
    sa.Column("log_lines", sa.BigInteger, nullable=False, default=0),
)

agent_totals = sa.Table(
    "agent_totals",
    metadata,
    sa.Column("agent_id", sa.String(64), primary_key=True),
    sa.Column("tasks", sa.BigInteger, nullable=False),
    sa.Column("tokens", sa.BigInteger, nullable=False),
    sa.Column("model_calls", sa.BigInteger, nullable=False),
    sa.Column("cost_usd", sa.Double, nullable=False),
)
"""The sums over all attempts of an agent. Triggers on `attempts` update the sums in the transaction of each change."""

tasks = sa.Table(
    "tasks",
    metadata,
    sa.Column("task_id", sa.String(64), primary_key=True),
    sa.Column("agent_id", sa.String(64)),
    sa.Column("wanted_agent_id", sa.String(64)),
    sa.Column("package", sa.String(64), nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("spec", JSONB, nullable=False),
    sa.Column("priority", sa.String(16), nullable=False),
    sa.Column("project", sa.Text, nullable=False),
    sa.Column("labels", JSONB, nullable=False),
    sa.Column("depends_on", ARRAY(sa.String(64)), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("sandbox_id", sa.String(255)),
    sa.Column("conversation_id", sa.String(255)),
    sa.Column("persistence_dir", sa.Text),
    sa.Column("created_at", _moment, nullable=False),
    sa.Column("updated_at", _moment, nullable=False),
    sa.Column("summary", sa.Text),
    sa.Column("diff", sa.Text),
    sa.Column("error", sa.Text),
    sa.Column("validation", sa.Text),
    sa.Column("reached_limit", sa.String(16)),
    sa.Column("base_commit", sa.String(64)),
    sa.Column("delivery", JSONB(none_as_null=True)),
)
"""`spec` is the whole `TaskSpec`; `priority`, `labels` and `depends_on` repeat fields of it that queries filter by."""

attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("attempt_id", sa.String(64), primary_key=True),
    sa.Column("task_id", sa.String(64), nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("agent_id", sa.String(64), nullable=False),
    sa.Column("sandbox_id", sa.String(255), nullable=False),
    sa.Column("conversation_id", sa.String(255), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("exit_code", sa.Integer),
    sa.Column("outcome", sa.String(16)),
    sa.Column("tokens", sa.BigInteger, nullable=False, default=0),
    sa.Column("model_calls", sa.Integer, nullable=False, default=0),
    sa.Column("cost_usd", sa.Double, nullable=False, default=0.0),
    sa.Column("created_at", _moment, nullable=False),
    sa.Column("creating_at", _moment),
    sa.Column("opened_at", _moment),
    sa.Column("deadline", _moment),
    sa.Column("ended_at", _moment),
    sa.Column("sandbox_deleted_at", _moment),
    sa.Column("interrupted", sa.Boolean, nullable=False, default=False),
    sa.Column("isolation", sa.String(LONGEST_ISOLATION), nullable=False, default="unknown"),
    sa.Column("reached_limit", sa.String(16)),
    sa.Column("question", sa.Boolean, nullable=False, default=False),
    sa.Column("model_failure", JSONB(none_as_null=True)),
    sa.Column("last_model_step", sa.Integer, nullable=False, default=0),
    sa.Column("unpriced_calls", sa.Integer, nullable=False, default=0),
)

replacements = sa.Table(
    "replacements",
    metadata,
    sa.Column("task_id", sa.String(64), primary_key=True),
    sa.Column("epoch", sa.Integer, primary_key=True),
    sa.Column("agent_id", sa.String(64), nullable=False),
    sa.Column("sandbox_id", sa.String(255), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("decision_id", sa.String(255)),
    sa.Column("ends", sa.String(16), nullable=False),
    sa.Column("then", sa.String(16), nullable=False),
    sa.Column("step", sa.String(16), nullable=False),
    sa.Column("evidence", JSONB(none_as_null=True)),
    sa.Column("created_at", _moment, nullable=False),
    sa.Column("finished_at", _moment),
)

outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True),
    sa.Column("entity_id", sa.String(64), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("event_id", sa.String(64), nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("created_at", _moment, nullable=False),
)

consumed = sa.Table(
    "consumed",
    metadata,
    sa.Column("stream", sa.String(64), primary_key=True),
    sa.Column("event_id", sa.String(128), primary_key=True),
    sa.Column("at", _moment, nullable=False),
)
