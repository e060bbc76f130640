"""The migrations of database schema `manager`."""

from pathlib import Path

from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.database.tables import SCHEMA
from muster.common.postgres.history import History

HISTORY = History(
    SCHEMA, Path(__file__).parent / "migrations", lock=0x6D75_7374_6D67_7201, program="muster.agent_manager"
)
migrate = HISTORY.migrate


async def refuse_older(database: ManagerDatabase) -> None:
    """Raise `OldSchema` if the database schema has an older revision than this code needs."""
    async with database.begin() as tx:
        await HISTORY.refuse_older(tx.connection)
