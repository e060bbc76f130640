"""Runs the migrations of a schema, and refuses to work on a database whose revision is too old."""

from collections.abc import Callable, Sequence
from pathlib import Path

import sqlalchemy as sa
from alembic import command, context
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import CreateSchema

from muster.common.faults import Conflict, InvalidMessage
from muster.common.postgres.connection import connect

HEAD, ONE_BACK, EMPTY = "head", "-1", "base"
_VERSION_TABLE = "alembic_version"


class OldSchema(Conflict):
    """The database has an older revision than this code requires."""

    code = "old_schema"


class NewSchema(Conflict):
    """The database has a revision that this code does not know."""

    code = "new_schema"


class History:
    """The migrations in `folder` for the schema of one service. Each migration holds the advisory lock `lock`."""

    def __init__(self, schema: str, folder: Path, *, lock: int, program: str) -> None:
        self._schema, self._folder, self._lock, self._program = schema, folder, lock, program

    async def run_command(self, arguments: Sequence[str], url: str) -> None:
        """Migrate as the command line says: to the newest revision, back by one (`--down`), or `--to REVISION`.

        The revision `base` is an empty schema.
        """
        match arguments:
            case ["migrate"]:
                await self.migrate(url, HEAD)
            case ["migrate", "--down"]:
                await self.migrate(url, ONE_BACK)
            case ["migrate", "--to", revision]:
                await self.migrate(url, revision)
            case _:
                raise InvalidMessage(f"usage: python -m {self._program} [migrate [--down | --to REVISION]]")

    async def migrate(self, url: str, revision: str = HEAD) -> None:
        """Migrate up or down to `revision`. Concurrent calls run one after the other.

        With the default revision, a database that a newer release has migrated further is left as it is. Otherwise
        raises `NewSchema` for such a database. Raises `InvalidMessage` for an unknown revision.
        """
        down = revision in (ONE_BACK, EMPTY)
        await self._with_connection(url, lambda connection: self._go(connection, revision, down=down))

    async def refuse_older(self, connection: AsyncConnection) -> None:
        """Raise `OldSchema` unless the database has this code's revision or a newer one."""
        scripts = ScriptDirectory.from_config(self._config())
        revision = await connection.run_sync(self._current)
        head = scripts.get_current_head()
        if revision is None or (revision != head and _knows(scripts, revision)):
            raise OldSchema(
                f"schema {self._schema} is at revision {revision or 'none'}, this service needs {head}: "
                f"run `python -m {self._program} migrate`"
            )

    async def _with_connection(self, url: str, act: Callable[[sa.Connection], None]) -> None:
        engine = create_async_engine(
            "postgresql+asyncpg://", async_creator=lambda: connect(url, long_statements=True), poolclass=NullPool
        )
        try:
            async with engine.begin() as connection:
                await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(self._lock)))
                await connection.execute(CreateSchema(self._schema, if_not_exists=True))
                await connection.run_sync(act)
        finally:
            await engine.dispose()

    def _go(self, connection: sa.Connection, revision: str, *, down: bool) -> None:
        config = self._config()
        config.attributes.update(connection=connection, schema=self._schema)
        scripts, current = ScriptDirectory.from_config(config), self._current(connection)
        if current is not None and not _knows(scripts, current):
            if revision == HEAD:
                return  # Each release also works with the schema of the next release.
            raise NewSchema(
                f"schema {self._schema} is at revision {current}, which this release does not know; "
                "downgrade with the newer release that migrated it"
            )
        if revision not in (HEAD, ONE_BACK, EMPTY) and not (revision and _knows(scripts, revision)):
            known = ", ".join(sorted(script.revision for script in scripts.walk_revisions()))
            raise InvalidMessage(f"schema {self._schema} has no revision {revision[:80]!r}; choose one of {known}")
        try:
            if down or self._behind(scripts, current, revision):
                command.downgrade(config, revision)
            else:
                command.upgrade(config, revision)
        except CommandError as error:
            raise InvalidMessage(
                f"schema {self._schema} cannot migrate from {current or 'nothing'} to {revision}: {error}"
            ) from None

    def _behind(self, scripts: ScriptDirectory, current: str | None, revision: str) -> bool:
        """Return whether `revision` is older than the database's revision."""
        if revision == HEAD or current in (None, revision):
            return False
        return revision in {script.revision for script in scripts.iterate_revisions(current, "base")}

    def _current(self, connection: sa.Connection) -> str | None:
        if not sa.inspect(connection).has_table(_VERSION_TABLE, self._schema):
            return None
        versions = sa.table(_VERSION_TABLE, sa.column("version_num", sa.String), schema=self._schema)
        return connection.execute(sa.select(versions.c.version_num)).scalar()

    def _config(self) -> Config:
        config = Config()
        config.set_main_option("script_location", str(self._folder).replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        return config


def run_migrations() -> None:
    """Run the migrations on the connection that `History` sets. Each `migrations/env.py` only calls this function."""
    attributes = context.config.attributes
    context.configure(
        connection=attributes["connection"],
        version_table=_VERSION_TABLE,
        version_table_schema=attributes["schema"],
    )
    with context.begin_transaction():
        context.run_migrations()


def _knows(scripts: ScriptDirectory, revision: str) -> bool:
    try:
        scripts.get_revision(revision)
    except CommandError:
        # The revision is newer than this code. Each release also works with the schema of the next release.
        return False
    return True
