"""Whether an attempt ended with its place, as at a shutdown, and does not count.

Revision ID: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

SCHEMA = "manager"


def upgrade() -> None:
    column = sa.Column("interrupted", sa.Boolean, nullable=False, server_default=sa.false())
    op.add_column("attempts", column, schema=SCHEMA)


def downgrade() -> None:
    op.drop_column("attempts", "interrupted", schema=SCHEMA)
