"""Migrations may take longer than the statement timeout of a service."""

from pathlib import Path

import pytest
from sqlalchemy import text

from muster.common.faults import Unavailable
from muster.common.postgres import connection
from muster.common.postgres.connection import connect, open_pool, typed
from muster.common.postgres.history import History

SLOW = """
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute("SELECT pg_sleep(0.3)")
    op.execute("CREATE TABLE slow.done (at int)")


def downgrade() -> None:
    op.execute("SELECT pg_sleep(0.3)")
    op.execute("DROP TABLE slow.done")
"""


@pytest.fixture
def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> History:
    monkeypatch.setattr(connection, "STATEMENT_DEADLINE_S", 0.1)
    (tmp_path / "versions").mkdir()
    (tmp_path / "versions" / "0001_slow.py").write_text(SLOW)
    (tmp_path / "env.py").write_text("from muster.common.postgres.history import run_migrations\n\nrun_migrations()\n")
    return History("slow", tmp_path, lock=0x51_0A, program="slow")


async def test_migration_takes_longer_than_a_statement_of_a_service_may(database_url: str, history: History) -> None:
    await history.migrate(database_url)
    await history.migrate(database_url, "base")
    await history.migrate(database_url)

    migrations = await connect(database_url, long_statements=True)
    try:
        assert await migrations.fetchval("SELECT count(*) FROM slow.done") == 0
    finally:
        await migrations.close()
    with pytest.raises(Unavailable), typed():
        async with open_pool(database_url) as pool, pool.connect() as service:
            await service.execute(text("SELECT pg_sleep(5)"))
