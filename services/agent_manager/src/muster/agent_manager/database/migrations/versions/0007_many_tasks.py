"""Indexes for each way to list tasks, and totals per agent, so that neither lists nor counts read ended tasks.

Revision ID: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

SCHEMA = "manager"
BY_AGE = ["created_at", "task_id"]
INDEXES = {
    "tasks_by_project": ["project", *BY_AGE],
    "tasks_by_state": ["state", *BY_AGE],
    "tasks_by_project_and_state": ["project", "state", *BY_AGE],
}

# Triggers, so that the release before this one, which may run beside it for a while, keeps the totals as well.
# A task counts once for an agent, at its first attempt by that agent.
ADD = """
CREATE FUNCTION manager.add_attempts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO manager.agent_totals AS t (agent_id, tasks, tokens, model_calls, cost_usd)
    SELECT a.agent_id,
        count(DISTINCT a.task_id) FILTER (WHERE NOT EXISTS (
            SELECT FROM manager.attempts b
            WHERE b.task_id = a.task_id AND b.agent_id = a.agent_id AND b.epoch < a.epoch)),
        sum(a.tokens), sum(a.model_calls), sum(a.cost_usd)
    FROM added a GROUP BY a.agent_id ORDER BY a.agent_id
    ON CONFLICT (agent_id) DO UPDATE SET
        tasks = t.tasks + excluded.tasks,
        tokens = t.tokens + excluded.tokens,
        model_calls = t.model_calls + excluded.model_calls,
        cost_usd = t.cost_usd + excluded.cost_usd;
    RETURN NULL;
END $$
"""
METER = """
CREATE FUNCTION manager.meter_attempt() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE manager.agent_totals SET
        tokens = tokens + NEW.tokens - OLD.tokens,
        model_calls = model_calls + NEW.model_calls - OLD.model_calls,
        cost_usd = cost_usd + NEW.cost_usd - OLD.cost_usd
    WHERE agent_id = NEW.agent_id;
    RETURN NULL;
END $$
"""
TRIGGERS = (
    """
    CREATE TRIGGER add_attempts AFTER INSERT ON manager.attempts REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION manager.add_attempts()
    """,
    """
    CREATE TRIGGER meter_attempt AFTER UPDATE OF tokens, model_calls, cost_usd ON manager.attempts
    FOR EACH ROW EXECUTE FUNCTION manager.meter_attempt()
    """,
)
SO_FAR = """
INSERT INTO manager.agent_totals (agent_id, tasks, tokens, model_calls, cost_usd)
SELECT agent_id, count(DISTINCT task_id), sum(tokens), sum(model_calls), sum(cost_usd)
FROM manager.attempts GROUP BY agent_id
"""


def upgrade() -> None:
    for name, columns in INDEXES.items():
        op.create_index(name, "tasks", columns, schema=SCHEMA)
    op.create_index(
        "tasks_by_label",
        "tasks",
        ["labels"],
        schema=SCHEMA,
        postgresql_using="gin",
        postgresql_ops={"labels": "jsonb_path_ops"},
    )
    op.create_table(
        "agent_totals",
        sa.Column("agent_id", sa.String(64), primary_key=True),
        sa.Column("tasks", sa.BigInteger, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("model_calls", sa.BigInteger, nullable=False),
        sa.Column("cost_usd", sa.Double, nullable=False),
        schema=SCHEMA,
    )
    op.execute("LOCK TABLE manager.attempts IN SHARE ROW EXCLUSIVE MODE")  # no attempt is counted twice, or never
    op.execute(SO_FAR)
    for statement in (ADD, METER, *TRIGGERS):
        op.execute(statement)


def downgrade() -> None:
    for trigger in ("add_attempts", "meter_attempt"):
        op.execute(f"DROP TRIGGER {trigger} ON manager.attempts")
        op.execute(f"DROP FUNCTION manager.{trigger}()")
    op.drop_table("agent_totals", schema=SCHEMA)
    for name in ("tasks_by_label", *INDEXES):
        op.drop_index(name, "tasks", schema=SCHEMA)
