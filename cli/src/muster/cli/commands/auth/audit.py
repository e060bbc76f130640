"""`muster auth audit`: who did what."""

from datetime import datetime
from typing import TYPE_CHECKING

import click
import msgspec

from muster.cli.client.target import TargetOptions
from muster.cli.commands.call_api import RowPage, api_options, show_rows
from muster.cli.commands.watching import watch_option
from muster.cli.console.output import Form, Row, Shape, output_option
from muster.cli.console.params import moment, page_options
from muster.common.clock import rfc3339, utc_now

if TYPE_CHECKING:
    from muster.cli.client.api import ApiClient

_ROUTES = " /api/v1/"
"""What every route begins with says nothing."""


def _cells(row: Row) -> Row:
    at = datetime.fromisoformat(row["at"]).astimezone()
    return {**row, "at": f"{at:%m-%d %H:%M:%S}", "what": row["what"].replace(_ROUTES, " ", 1)}


ENTRIES = Shape(
    columns=("at", "who", "action", "what", "outcome", "service", "source", "trace_id", "event_id"),
    spare=("event_id", "trace_id", "source", "service"),
    name="event_id",
    cells=_cells,
)
OUTCOMES = click.Choice(("done", "refused"))
MOMENT = "12h, 30d, or a time as 2026-12-31T00:00:00Z."


@click.command()
@click.option("--who", metavar="WHO", help="Only what user:ID did, with all keys; or key:ID.")
@click.option("--action", metavar="ACTION", help="Only this, as start-agent.")
@click.option("--service", metavar="NAME", help="Only what this service was asked.")
@click.option("--outcome", type=OUTCOMES, help="Only what was done, or refused.")
@click.option("--trace", "trace_id", metavar="ID", help="Only what belongs to this trace.")
@click.option("--since", metavar="WHEN", help=f"Only what is younger than {MOMENT}")
@click.option("--until", metavar="WHEN", help=f"Only what is older than {MOMENT}")
@page_options
@watch_option
@output_option
@api_options
def audit(
    *,
    since: str | None,
    until: str | None,
    limit: int,
    cursor: str | None,
    watch: bool,
    form: Form,
    target: TargetOptions,
    **filters: str | None,
) -> None:
    """Show who did what, newest first; for admins. `-o json` has the details of each."""
    now = utc_now()
    wanted = filters | {"since": _past(since, now), "until": _past(until, now)}

    async def read(api: "ApiClient") -> RowPage:
        page = await api.identity.audit(limit=limit, cursor=cursor, **wanted)
        return RowPage(msgspec.to_builtins(page.entries), page.next_cursor)

    show_rows(target, read, form, ENTRIES, empty="No such entries.", watch=watch)


def _past(word: str | None, now: datetime) -> str | None:
    """A duration is counted back from now."""
    if word is None:
        return None
    told = moment(word, now)
    return rfc3339(now - (told - now) if told > now else told)
