"""Run by alembic."""

from muster.common.postgres.history import run_migrations

run_migrations()
