"""The whole `TaskSpec` of a task and the whole `AgentSpec` of an agent, each in one JSONB column, `spec`.

Revision ID: 0009

The columns that held its fields stay for one release: the release before this one, which may run beside it for a while
or be started again on this schema, reads and writes them. Triggers keep both forms.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0009"
down_revision = "0008"

SCHEMA = "manager"
BUILT = """jsonb_build_object(
    'objective', {row}objective, 'repo', {row}repo, 'test_command', {row}test_command, 'paths', {row}paths,
    'timeout_s', {row}timeout_s, 'priority', {row}priority, 'labels', {row}labels,
    'depends_on', to_jsonb({row}depends_on), 'ticket_id', {row}ticket_id, 'phase_id', {row}phase_id,
    'metadata', {row}metadata)"""
BOTH_FORMS = f"""
CREATE FUNCTION manager.keep_both_forms_of_a_task() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.spec IS NULL THEN
        NEW.spec := {BUILT.format(row="NEW.")};
    ELSE
        NEW.objective := NEW.spec ->> 'objective';
        NEW.repo := nullif(NEW.spec -> 'repo', 'null');
        NEW.test_command := NEW.spec ->> 'test_command';
        NEW.paths := NEW.spec -> 'paths';
        NEW.timeout_s := (NEW.spec ->> 'timeout_s')::double precision;
        NEW.ticket_id := NEW.spec ->> 'ticket_id';
        NEW.phase_id := NEW.spec ->> 'phase_id';
        NEW.metadata := NEW.spec -> 'metadata';
    END IF;
    RETURN NEW;
END $$
"""
TRIGGER = """
CREATE TRIGGER keep_both_forms BEFORE INSERT ON manager.tasks
FOR EACH ROW EXECUTE FUNCTION manager.keep_both_forms_of_a_task()
"""
AGENT = """jsonb_build_object(
    'name', {row}name, 'mode', {row}mode, 'config', {row}config, 'labels', {row}labels)"""
NEW_OF_AN_AGENT = """'{"phase_id": null, "capabilities": []}'::jsonb"""
BOTH_FORMS_OF_AN_AGENT = f"""
CREATE FUNCTION manager.keep_both_forms_of_an_agent() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.spec IS NULL THEN
        NEW.spec := {NEW_OF_AN_AGENT} || {AGENT.format(row="NEW.")};
    ELSIF TG_OP = 'UPDATE' AND NEW.spec IS NOT DISTINCT FROM OLD.spec THEN
        NEW.spec := NEW.spec || {AGENT.format(row="NEW.")};
    ELSE
        NEW.config := NEW.spec -> 'config';
    END IF;
    RETURN NEW;
END $$
"""
# Only where one of these columns is set: heartbeats, which set none of them, do not pay for it.
TRIGGER_OF_AGENTS = """
CREATE TRIGGER keep_both_forms BEFORE INSERT OR UPDATE OF name, mode, config, labels, spec ON manager.agents
FOR EACH ROW EXECUTE FUNCTION manager.keep_both_forms_of_an_agent()
"""


def upgrade() -> None:
    op.execute("LOCK TABLE manager.tasks IN SHARE ROW EXCLUSIVE MODE")  # no task is stored between the two statements
    op.add_column("tasks", sa.Column("spec", JSONB), schema=SCHEMA)
    op.execute(BOTH_FORMS)
    op.execute(TRIGGER)
    op.execute("UPDATE manager.tasks SET spec = " + BUILT.format(row=""))  # noqa: S608 - constants
    op.alter_column("tasks", "spec", nullable=False, schema=SCHEMA)
    op.execute("LOCK TABLE manager.agents IN SHARE ROW EXCLUSIVE MODE")
    op.add_column("agents", sa.Column("spec", JSONB), schema=SCHEMA)
    op.execute("UPDATE manager.agents SET spec = " + NEW_OF_AN_AGENT + " || " + AGENT.format(row=""))  # noqa: S608 - constants
    op.execute(BOTH_FORMS_OF_AN_AGENT)
    op.execute(TRIGGER_OF_AGENTS)
    op.alter_column("agents", "spec", nullable=False, schema=SCHEMA)


def downgrade() -> None:
    op.execute("DROP TRIGGER keep_both_forms ON manager.agents")
    op.execute("DROP FUNCTION manager.keep_both_forms_of_an_agent()")
    op.drop_column("agents", "spec", schema=SCHEMA)
    op.execute("DROP TRIGGER keep_both_forms ON manager.tasks")
    op.execute("DROP FUNCTION manager.keep_both_forms_of_a_task()")
    op.drop_column("tasks", "spec", schema=SCHEMA)
