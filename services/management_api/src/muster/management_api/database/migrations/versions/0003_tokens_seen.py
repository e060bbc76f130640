"""When an identity provider's user last showed a token, and when the newest token that they showed was issued.

Revision ID: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

SCHEMA = "api"
COLUMNS = ("token_seen_at", "token_issued_at")


def upgrade() -> None:
    for column in COLUMNS:
        op.add_column("users", sa.Column(column, sa.DateTime(timezone=True)), schema=SCHEMA)
    # Whoever has keys now has the whole time to show a token.
    op.execute("UPDATE api.users SET token_seen_at = now() WHERE issuer IS NOT NULL")


def downgrade() -> None:
    for column in COLUMNS:
        op.drop_column("users", column, schema=SCHEMA)
