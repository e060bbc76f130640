"""Counts the rows that PostgreSQL reads for a query, from its plans and statistics instead of from a clock."""

from typing import Any

import msgspec
from sqlalchemy import text

from muster.agent_manager.database.transaction import Transaction
from muster.common.postgres.connection import connect
from muster.common.postgres.reading import Reader


class ExplainingReader(Reader):
    """A reader that runs each statement first with EXPLAIN ANALYZE, to count the rows that PostgreSQL reads."""

    def __init__(self, url: str) -> None:
        super().__init__(url, size=2)
        self._own_url = url
        self.touched: dict[str, int] = {}
        """Number of rows that scans have read since the reader was created, by table."""

    async def _fetch(self, statement: str, arguments: list[object]) -> list[Any]:
        connection = await connect(self._own_url)
        try:
            explained = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", *arguments)
        finally:
            await connection.close()
        self._count(msgspec.json.decode(explained)[0]["Plan"])
        return await super()._fetch(statement, arguments)

    def _count(self, node: dict[str, Any]) -> None:
        if table := node.get("Relation Name"):
            removed = sum(value for name, value in node.items() if name.startswith("Rows Removed by"))
            rows = (node["Actual Rows"] + removed) * node["Actual Loops"]
            self.touched[table] = self.touched.get(table, 0) + round(rows)
        for inner in node.get("Plans", ()):
            self._count(inner)


async def touched(tx: Transaction) -> dict[str, int]:
    """Return the number of rows that the statements of this transaction have read, by table."""
    query = text("""
        SELECT relname, coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables
        WHERE schemaname = 'manager'
    """)
    return {row[0]: row[1] for row in await tx.connection.execute(query)}
