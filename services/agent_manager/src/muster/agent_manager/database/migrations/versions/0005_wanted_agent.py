"""The agent that a task's submission names, apart from the agent of its newest attempt.

Revision ID: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

SCHEMA = "manager"


def upgrade() -> None:
    wanted = sa.Column("wanted_agent_id", sa.String(64), sa.ForeignKey(f"{SCHEMA}.agents.agent_id"))
    op.add_column("tasks", wanted, schema=SCHEMA)
    # Until now one column held both. Before the first attempt it is the agent that was named. After it, it may be the
    # default agent only because the task named a package; any other agent is most likely the one that was named.
    op.execute("""
        UPDATE manager.tasks t SET wanted_agent_id = t.agent_id FROM manager.agents a
        WHERE a.agent_id = t.agent_id AND t.state NOT IN ('completed', 'failed', 'cancelled')
            AND (t.epoch = 0 OR NOT a.is_default)
    """)


def downgrade() -> None:
    # The release before this one reads the named agent from `agent_id`.
    op.execute("""
        UPDATE manager.tasks SET agent_id = wanted_agent_id
        WHERE state IN ('blocked', 'queued')
    """)
    op.drop_column("tasks", "wanted_agent_id", schema=SCHEMA)
