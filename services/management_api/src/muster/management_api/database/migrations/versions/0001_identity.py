"""Users, keys, the audit as one can ask it, answers to be repeated.

Revision ID: 0001
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0001"
down_revision = None

SCHEMA = "api"
ROLES = "role IN ('viewer', 'operator', 'admin')"

_moment = sa.DateTime(timezone=True)


def upgrade() -> None:
    _create_users()
    _create_keys()
    _create_audit()
    op.create_table(
        "idempotency",
        sa.Column("principal", sa.String(128), primary_key=True),
        sa.Column("key", sa.String(255), primary_key=True),
        sa.Column("method", sa.String(16), nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("body_hash", sa.LargeBinary, nullable=False),
        sa.Column("status", sa.Integer),
        sa.Column("headers", JSONB),
        sa.Column("body", sa.LargeBinary),
        sa.Column("created_at", _moment, nullable=False),
        sa.Column("expires_at", _moment, nullable=False, index=True),
        schema=SCHEMA,
    )


def _create_users() -> None:
    users = op.create_table(
        "users",
        sa.Column("user_id", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("email", sa.String(255)),
        sa.Column("role", sa.String(16)),
        sa.Column("issuer", sa.Text),
        sa.Column("subject", sa.Text),
        sa.Column("disabled_at", _moment),
        sa.Column("created_at", _moment, nullable=False),
        sa.Column("updated_at", _moment, nullable=False),
        sa.Column("last_seen_at", _moment),
        sa.UniqueConstraint("issuer", "subject"),
        sa.CheckConstraint(ROLES),
        sa.CheckConstraint("(issuer IS NULL) = (subject IS NULL)"),
        schema=SCHEMA,
    )
    # Names of people from an identity provider are theirs and may repeat; those made here name one user.
    local = sa.text("issuer IS NULL")
    op.create_index("one_local_name", "users", ["name"], unique=True, schema=SCHEMA, postgresql_where=local)
    op.create_index("users_by_age", "users", ["created_at", "user_id"], schema=SCHEMA)
    now = sa.func.now()
    op.execute(users.insert().values(user_id="admin", name="admin", role="admin", created_at=now, updated_at=now))


def _create_keys() -> None:
    op.create_table(
        "keys",
        sa.Column("key_id", sa.String(64), primary_key=True),
        sa.Column("user_id", sa.String(64), sa.ForeignKey(f"{SCHEMA}.users.user_id"), nullable=False, index=True),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("prefix", sa.String(64), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("scopes", ARRAY(sa.String(64))),
        sa.Column("project", sa.String(64)),
        sa.Column("issued_by", sa.String(128), nullable=False),
        sa.Column("created_at", _moment, nullable=False),
        sa.Column("expires_at", _moment),
        sa.Column("revoked_at", _moment),
        sa.Column("revoked_by", sa.String(128)),
        sa.Column("last_used_at", _moment),
        sa.CheckConstraint(ROLES),
        schema=SCHEMA,
    )
    op.create_index("keys_by_age", "keys", ["created_at", "key_id"], schema=SCHEMA)


def _create_audit() -> None:
    op.create_table(
        "audit",
        sa.Column("event_id", sa.String(64), primary_key=True),
        sa.Column("at", _moment, nullable=False),
        sa.Column("service", sa.String(64), nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("who", sa.String(128), nullable=False),
        sa.Column("what", sa.Text, nullable=False),
        sa.Column("outcome", sa.String(64), nullable=False),
        sa.Column("source", sa.String(255)),
        sa.Column("trace_id", sa.String(64)),
        sa.Column("detail", JSONB, nullable=False),
        schema=SCHEMA,
    )
    op.create_index("audit_by_age", "audit", ["at", "event_id"], schema=SCHEMA)
    for column in ("who", "action", "trace_id"):
        op.create_index(f"audit_by_{column}", "audit", [column, "at", "event_id"], schema=SCHEMA)


def downgrade() -> None:
    for table in ("idempotency", "audit", "keys", "users"):
        op.drop_table(table, schema=SCHEMA)
