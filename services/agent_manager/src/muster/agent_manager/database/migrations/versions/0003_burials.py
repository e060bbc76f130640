"""How often an agent of an id was deleted, and of how many of these nothing is left.

Revision ID: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

SCHEMA = "manager"


def upgrade() -> None:
    for column in ("deaths", "burials"):
        op.add_column("agents", sa.Column(column, sa.Integer, nullable=False, server_default="0"), schema=SCHEMA)
    op.create_check_constraint("an_agents_burials", "agents", "burials BETWEEN 0 AND deaths", schema=SCHEMA)
    # Whether those deleted so far have been cleared away, nobody has noted.
    op.execute("UPDATE manager.agents SET deaths = 1 WHERE deleted_at IS NOT NULL AND mode = 'process'")
    op.create_index(
        "agents_unburied", "agents", ["agent_id"], schema=SCHEMA, postgresql_where=sa.text("burials < deaths")
    )


def downgrade() -> None:
    op.drop_index("agents_unburied", "agents", schema=SCHEMA)
    op.drop_constraint("an_agents_burials", "agents", schema=SCHEMA)
    for column in ("deaths", "burials"):
        op.drop_column("agents", column, schema=SCHEMA)
