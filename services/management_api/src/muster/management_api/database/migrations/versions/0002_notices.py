"""Who lost or gained what is told at the commit that did it, whoever committed: on channel `api_callers`, by user id.

And what a person did is found by who he is, whatever key he did it with.

Revision ID: 0002
"""

from alembic import op

revision = "0002"
down_revision = "0001"

TELL = """
CREATE FUNCTION api.tell_of_caller() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('api_callers', OLD.user_id);
    RETURN NULL;
END $$
"""
# What is written at every use (`last_used_at`, `last_seen_at`) takes nobody's leave away.
OF_KEYS = "(k.revoked_at, k.expires_at, k.role, k.scopes, k.project, k.user_id)"
OF_USERS = "(k.disabled_at, k.role)"


def upgrade() -> None:
    op.execute("CREATE INDEX audit_by_user ON api.audit ((detail ->> 'user_id'), at, event_id)")
    op.execute(TELL)
    for table, what in (("keys", OF_KEYS), ("users", OF_USERS)):
        old, new = what.replace("k.", "OLD."), what.replace("k.", "NEW.")
        op.execute(f"""
            CREATE TRIGGER tell_of_change AFTER UPDATE ON api.{table} FOR EACH ROW
            WHEN ({old} IS DISTINCT FROM {new}) EXECUTE FUNCTION api.tell_of_caller()
        """)
        op.execute(f"""
            CREATE TRIGGER tell_of_end AFTER DELETE ON api.{table} FOR EACH ROW EXECUTE FUNCTION api.tell_of_caller()
        """)


def downgrade() -> None:
    for table in ("keys", "users"):
        for trigger in ("tell_of_change", "tell_of_end"):
            op.execute(f"DROP TRIGGER {trigger} ON api.{table}")
    op.execute("DROP FUNCTION api.tell_of_caller()")
    op.execute("DROP INDEX api.audit_by_user")
