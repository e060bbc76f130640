"""Implements `muster auth audit`, which prints entries of the audit log."""

from datetime import datetime
from typing import TYPE_CHECKING, get_args

import click
import msgspec

from muster.cli.client.target import TargetOptions
from muster.cli.commands.call_api import RowPage, list_options, show_rows
from muster.cli.console.output import OutputFormat, Row, TableLayout
from muster.cli.console.params import parse_past
from muster.client.filters import AuditFilters, Outcome
from muster.common.clock import utc_now

if TYPE_CHECKING:
    from muster.client import AsyncMuster

_ROUTES = " /api/v1/"
"""Beginning of every route; the table leaves it out to save width."""


def _cells(row: Row) -> Row:
    at = datetime.fromisoformat(row["at"]).astimezone()
    who = row.get("who_name") or row["who"]
    return {**row, "at": f"{at:%m-%d %H:%M:%S}", "who": who, "what": row["what"].replace(_ROUTES, " ", 1)}


ENTRIES = TableLayout(
    columns=("at", "who", "action", "what", "outcome", "service", "source", "trace_id", "event_id"),
    dropped_first=("event_id", "trace_id", "source", "service"),
    name="event_id",
    cells=_cells,
)
OUTCOMES = click.Choice(get_args(Outcome))
TIME_HELP = "WHEN: 12h or 30d ago, or a time such as 2026-12-31T00:00:00Z."


@click.command()
@click.option("--who", metavar="WHO", help="Show only actions of user:ID (with any key) or of key:ID.")
@click.option("--action", metavar="ACTION", help="Show only this action, for instance start-agent.")
@click.option("--service", metavar="NAME", help="Show only requests to this service.")
@click.option("--outcome", type=OUTCOMES, help="Show only actions that were done, or only refused ones.")
@click.option("--trace", "trace_id", metavar="ID", help="Show only entries of this trace.")
@click.option("--since", metavar="WHEN", help=f"Show only entries after {TIME_HELP}")
@click.option("--until", metavar="WHEN", help=f"Show only entries before {TIME_HELP}")
@list_options
def audit(
    *,
    who: str | None,
    action: str | None,
    service: str | None,
    outcome: Outcome | None,
    trace_id: str | None,
    since: str | None,
    until: str | None,
    limit: int,
    cursor: str | None,
    watch: bool,
    form: OutputFormat,
    target: TargetOptions,
) -> None:
    """Show the audit log, newest entries first. The key needs the role admin.

    An entry contains the caller's name, the action, its object and its outcome. `-o json` also shows the caller's id
    and the details of each entry.
    """
    now = utc_now()
    filters: AuditFilters = {
        "who": who,
        "action": action,
        "service": service,
        "outcome": outcome,
        "trace_id": trace_id,
        "since": parse_past(since, now),
        "until": parse_past(until, now),
    }

    async def read(api: "AsyncMuster") -> RowPage:
        page = await api.audit.list(limit=limit, cursor=cursor, **filters)
        return RowPage(msgspec.to_builtins(page.entries), page.next_cursor)

    show_rows(target, read, form, ENTRIES, empty="No entries match.", watch=watch)
