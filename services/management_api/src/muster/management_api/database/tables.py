"""The tables of the schema `api`, declared for SQLAlchemy statements. The migrations create the tables."""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

SCHEMA = "api"

metadata = sa.MetaData(schema=SCHEMA)

_moment = sa.DateTime(timezone=True)

users = sa.Table(
    "users",
    metadata,
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
    sa.Column("token_seen_at", _moment),
    sa.Column("token_issued_at", _moment),
)

keys = sa.Table(
    "keys",
    metadata,
    sa.Column("key_id", sa.String(64), primary_key=True),
    sa.Column("user_id", sa.String(64), nullable=False),
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
)

audit = sa.Table(
    "audit",
    metadata,
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
)

idempotency = sa.Table(
    "idempotency",
    metadata,
    sa.Column("principal", sa.String(128), primary_key=True),
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("method", sa.String(16), nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("body_hash", sa.LargeBinary, nullable=False),
    sa.Column("status", sa.Integer),
    sa.Column("headers", JSONB(none_as_null=True)),
    sa.Column("body", sa.LargeBinary),
    sa.Column("created_at", _moment, nullable=False),
    sa.Column("expires_at", _moment, nullable=False),
)
