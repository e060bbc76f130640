"""Indexes by which rows that are old enough are found, to be deleted.

Revision ID: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

SCHEMA = "manager"


def upgrade() -> None:
    ended = sa.text("state IN ('completed', 'failed', 'cancelled')")
    op.create_index("tasks_ended", "tasks", ["updated_at"], schema=SCHEMA, postgresql_where=ended)
    over = sa.text("ended_at IS NOT NULL")
    op.create_index("launches_ended", "agent_launches", ["ended_at"], schema=SCHEMA, postgresql_where=over)


def downgrade() -> None:
    op.drop_index("launches_ended", "agent_launches", schema=SCHEMA)
    op.drop_index("tasks_ended", "tasks", schema=SCHEMA)
