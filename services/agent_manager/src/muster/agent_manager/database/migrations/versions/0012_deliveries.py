"""The commit that a task's result applies to, and the delivery of the result.

Revision ID: 0012

The release before this one, which may run beside it for a while, does not write these columns.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0012"
down_revision = "0011"

SCHEMA = "manager"


def upgrade() -> None:
    op.add_column("tasks", sa.Column("base_commit", sa.String(64)), schema=SCHEMA)
    op.add_column("tasks", sa.Column("delivery", JSONB), schema=SCHEMA)


def downgrade() -> None:
    op.drop_column("tasks", "delivery", schema=SCHEMA)
    op.drop_column("tasks", "base_commit", schema=SCHEMA)
