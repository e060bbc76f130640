"""The migrations of the database schema `api`, and the check of the schema's revision."""

from pathlib import Path

from muster.common.postgres.history import History
from muster.management_api.database.engine import ApiDatabase
from muster.management_api.database.tables import SCHEMA

HISTORY = History(
    SCHEMA, Path(__file__).parent / "migrations", lock=0x6D75_7374_6170_6901, program="muster.management_api"
)


async def refuse_older(database: ApiDatabase) -> None:
    """Raise `OldSchema` if the database schema has an older revision than this code needs."""
    async with database.begin() as connection:
        await HISTORY.refuse_older(connection)
