"""The limit that ended a task or an attempt, the last model call that failed, and the calls without a known price.

Revision ID: 0011

The release before this one, which may run beside it for a while, does not write these columns.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0011"
down_revision = "0010"

SCHEMA = "manager"


def upgrade() -> None:
    op.add_column("tasks", sa.Column("reached_limit", sa.String(16)), schema=SCHEMA)
    op.add_column("attempts", sa.Column("reached_limit", sa.String(16)), schema=SCHEMA)
    question = sa.Column("question", sa.Boolean, nullable=False, server_default=sa.false())
    op.add_column("attempts", question, schema=SCHEMA)
    op.add_column("attempts", sa.Column("model_failure", JSONB), schema=SCHEMA)
    step = sa.Column("last_model_step", sa.Integer, nullable=False, server_default="0")
    op.add_column("attempts", step, schema=SCHEMA)
    unpriced = sa.Column("unpriced_calls", sa.Integer, nullable=False, server_default="0")
    op.add_column("attempts", unpriced, schema=SCHEMA)


def downgrade() -> None:
    op.drop_column("attempts", "unpriced_calls", schema=SCHEMA)
    op.drop_column("attempts", "last_model_step", schema=SCHEMA)
    op.drop_column("attempts", "model_failure", schema=SCHEMA)
    op.drop_column("attempts", "question", schema=SCHEMA)
    op.drop_column("attempts", "reached_limit", schema=SCHEMA)
    op.drop_column("tasks", "reached_limit", schema=SCHEMA)
