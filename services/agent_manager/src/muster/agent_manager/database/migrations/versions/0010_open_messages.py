"""The index by which the messages of an ended process are found that have no outcome yet.

Revision ID: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

SCHEMA = "manager"


def upgrade() -> None:
    is_open = sa.text("verb = 'message'")
    op.create_index("open_messages", "agent_commands", ["agent_id"], schema=SCHEMA, postgresql_where=is_open)


def downgrade() -> None:
    op.drop_index("open_messages", "agent_commands", schema=SCHEMA)
