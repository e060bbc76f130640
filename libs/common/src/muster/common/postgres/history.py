"""The migrations of a schema: moves a database to a revision, and refuses to work on an older one."""

from collections.abc import Callable, Sequence
from pathlib import Path

import sqlalchemy as sa
from alembic import command, context
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from muster.common.faults import Conflict, InvalidMessage
from muster.common.postgres.connection import connect

HEAD, ONE_BACK, EMPTY = "head", "-1", "base"


class OldSchema(Conflict):
    """The database is at an older revision than this code."""

    code = "old_schema"


class NewSchema(Conflict):
    """The database is at a revision that this code does not know."""

    code = "new_schema"


class History:
    """The migrations of one service's schema, in `folder`; `lock` is the advisory lock that a migration takes."""

    def __init__(self, schema: str, folder: Path, *, lock: int, program: str) -> None:
        self._schema, self._folder, self._lock, self._program = schema, folder, lock, program
        self._version = f"{schema}.alembic_version"

    async def bring_along(self, arguments: Sequence[str], url: str) -> None:
        """Run `migrate` to the newest revision, `--down` one back, or `--to REVISION` (`base`: empty)."""
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
        """Go up to `revision`, or down if it lies behind. Concurrent calls run one after the other.

        A database that a newer release has migrated further stays where it is. Raises `NewSchema` if it should go
        anywhere else, and `InvalidMessage` for an unknown revision.
        """
        down = revision in (ONE_BACK, EMPTY)
        await self._with_connection(url, lambda connection: self._go(connection, revision, down=down))

    async def refuse_older(self, connection: AsyncConnection) -> None:
        """Raise `OldSchema` unless the database has this code's revision or a newer one."""
        scripts = ScriptDirectory.from_config(self._config())
        there = (await connection.execute(sa.text(f"SELECT to_regclass('{self._version}')"))).scalar()
        query = sa.text(f"SELECT version_num FROM {self._version}")  # noqa: S608 - a constant
        revision = (await connection.execute(query)).scalar() if there else None
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
                await connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": self._lock})
                await connection.execute(sa.text(f"CREATE SCHEMA IF NOT EXISTS {self._schema}"))
                await connection.run_sync(act)
        finally:
            await engine.dispose()

    def _go(self, connection: sa.Connection, revision: str, *, down: bool) -> None:
        config = self._config()
        config.attributes.update(connection=connection, schema=self._schema)
        scripts, current = ScriptDirectory.from_config(config), self._current(connection)
        if current is not None and not _knows(scripts, current):
            if revision == HEAD:
                return  # migrations keep the release before them working
            raise NewSchema(
                f"schema {self._schema} is at revision {current}, which this release does not know: "
                "go back with the release that brought it there"
            )
        if revision not in (HEAD, ONE_BACK, EMPTY) and not (revision and _knows(scripts, revision)):
            known = ", ".join(sorted(script.revision for script in scripts.walk_revisions()))
            raise InvalidMessage(f"schema {self._schema} has no revision {revision[:80]!r}; it has {known}")
        try:
            if down or self._behind(scripts, current, revision):
                command.downgrade(config, revision)
            else:
                command.upgrade(config, revision)
        except CommandError as error:
            raise InvalidMessage(
                f"schema {self._schema} cannot go there from {current or 'nothing'}: {error}"
            ) from None

    def _behind(self, scripts: ScriptDirectory, current: str | None, revision: str) -> bool:
        """Return whether `revision` is an ancestor of the database's revision."""
        if revision == HEAD or current in (None, revision):
            return False
        return revision in {script.revision for script in scripts.iterate_revisions(current, "base")}

    def _current(self, connection: sa.Connection) -> str | None:
        if not connection.execute(sa.text(f"SELECT to_regclass('{self._version}')")).scalar():
            return None
        return connection.execute(sa.text(f"SELECT version_num FROM {self._version}")).scalar()  # noqa: S608 - a constant

    def _config(self) -> Config:
        config = Config()
        config.set_main_option("script_location", str(self._folder).replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        return config


def run_migrations() -> None:
    """The whole of a `migrations/env.py`: alembic runs it, on the connection that `History` passes on."""
    attributes = context.config.attributes
    context.configure(
        connection=attributes["connection"],
        version_table="alembic_version",
        version_table_schema=attributes["schema"],
    )
    with context.begin_transaction():
        context.run_migrations()


def _knows(scripts: ScriptDirectory, revision: str) -> bool:
    try:
        scripts.get_revision(revision)
    except CommandError:
        return False  # newer than this code; migrations keep the release before them working
    return True
