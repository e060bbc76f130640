"""How the sandbox of an attempt is isolated.

Revision ID: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

SCHEMA = "manager"


def upgrade() -> None:
    column = sa.Column("isolation", sa.String(32), nullable=False, server_default="unknown")
    op.add_column("attempts", column, schema=SCHEMA)


def downgrade() -> None:
    op.drop_column("attempts", "isolation", schema=SCHEMA)
