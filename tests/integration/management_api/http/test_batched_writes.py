"""Stored uses of keys and expired rows need few statements for many rows, and use an index."""

import asyncio
import re
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from muster.common.clock import utc_now
from muster.common.ids import new_id
from muster.embedded.sql import connected
from muster.management_api.access.domain.keys import digest, shown, written
from muster.management_api.access.store.keys import KeyStore
from muster.management_api.access.store.users import UserStore
from muster.management_api.database.engine import ApiDatabase, open_database
from muster.management_api.database.schema import HISTORY
from muster.management_api.http.idempotency.rules import KEPT, attempted
from muster.management_api.http.idempotency.store import StoredReplies
from tests.support.eventually import eventually

MANY = 60


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[ApiDatabase]:
    await HISTORY.migrate(database_url)
    async with open_database(database_url) as database:
        yield database


@contextmanager
def statements() -> Generator[list[str]]:
    """Record every statement that SQLAlchemy executes during the block."""
    told: list[str] = []

    def tell(_: object, __: object, statement: str, *___: Any) -> None:
        told.append(statement)

    event.listen(sa.Engine, "before_cursor_execute", tell)
    try:
        yield told
    finally:
        event.remove(sa.Engine, "before_cursor_execute", tell)


async def _key(keys: KeyStore, user_id: str) -> str:
    key_id, now = new_id("key"), utc_now()
    key = written(key_id, "s" * 43)
    fields = {"scopes": None, "project": None, "expires_at": None, "issued_by": "user:admin", "created_at": now}
    row = {"key_id": key_id, "user_id": user_id, "name": "x", "role": "viewer", **fields}
    await keys.add({**row, "digest": digest(key), "prefix": shown(key)})
    return key_id


async def test_uses_of_many_keys_are_stored_with_few_statements(database: ApiDatabase):
    at = [utc_now()]
    users = UserStore(database, now=lambda: at[0], new_id=new_id)
    keys = KeyStore(database, now=lambda: at[0])
    user_ids = [(await users.add(new_id("usr"), name=new_id("usr"), email=None, role="viewer")).user_id for _ in "ab"]
    key_ids = [await _key(keys, user_ids[number % 2]) for number in range(MANY)]
    unused = await _key(keys, user_ids[0])

    with statements() as executed:
        for key_id in key_ids:
            at[0] += timedelta(seconds=1)
            keys.used(key_id)
        keys.used(new_id("key"))  # This key was deleted meanwhile.
        writing = asyncio.create_task(keys.keep_uses())
        await eventually(lambda: any("last_used_at" in statement for statement in executed))

        async def written_down() -> bool:
            return (await keys.get(key_ids[-1], None)).last_used_at is not None

        await eventually(written_down)
        writing.cancel()
    told = {key_id: (await keys.get(key_id, None)).last_used_at for key_id in (*key_ids, unused)}
    seen = [(await users.get(user_id)).last_seen_at for user_id in user_ids]

    assert sum("UPDATE" in statement for statement in executed) <= 4
    assert told.pop(unused) is None
    assert list(told.values()) == [at[0] - timedelta(seconds=MANY - 1 - number) for number in range(MANY)]
    assert seen == [at[0] - timedelta(seconds=1), at[0]]


async def test_older_use_stored_later_does_not_change_the_last_use(database: ApiDatabase):
    now = utc_now()
    at = [now]
    user = await UserStore(database, now=lambda: now, new_id=new_id).add(new_id("usr"), name="x", email=None, role=None)
    keys = KeyStore(database, now=lambda: at[0])
    one, other = [await _key(keys, user.user_id) for _ in "ab"]

    async def last_use(key_id: str) -> datetime | None:
        return (await keys.get(key_id, None)).last_used_at

    writing = asyncio.create_task(keys.keep_uses())
    keys.used(one)
    assert await eventually(lambda: last_use(one)) == now
    at[0] -= timedelta(seconds=9)
    keys.used(one)
    keys.used(other)  # stored in the same statement
    assert await eventually(lambda: last_use(other)) == at[0]
    writing.cancel()

    assert await last_use(one) == now


async def test_expired_idempotency_rows_are_found_by_an_index(database: ApiDatabase, database_url: str):
    now = utc_now()
    at = [now - KEPT - timedelta(hours=1)]
    answered = StoredReplies(database, now=lambda: at[0])

    def request(key: str) -> Any:
        return attempted(principal="user:a", key=key, method="POST", path="/x", body=b"1")

    await answered.begin(request("old"))
    at[0] = now - timedelta(hours=1)
    began = await answered.begin(request("released"))
    assert isinstance(began, datetime)
    await answered.release(request("released"), began)
    at[0] = now
    await answered.begin(request("under-way"))
    async with connected(database_url) as direct:

        async def forgotten() -> bool:
            return not await direct.fetchval("SELECT count(*) FROM api.idempotency WHERE key = 'old'")

        with statements() as executed:
            expiring = asyncio.create_task(answered.expire())
            await eventually(forgotten)
            expiring.cancel()
        await direct.execute("SET enable_seqscan = off")  # Otherwise PostgreSQL would scan such a small table.
        deleting = re.sub(r"\$\d::TIMESTAMP WITH TIME ZONE", "now()", executed[0])
        plan = await direct.fetchval(f"EXPLAIN (FORMAT JSON) {deleting}")
        left = await direct.fetchval("SELECT array_agg(key ORDER BY key) FROM api.idempotency")

    assert '"Index Cond": "(expires_at <= now())"' in plan
    assert left == ["released", "under-way"]
