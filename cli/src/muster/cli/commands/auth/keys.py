"""Implements `muster auth keys create | list | revoke`, which manage API keys."""

import sys
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, get_args

import click
import msgspec

from muster.cli.client.resolve_ids import NamedIdPage, resolve_named
from muster.cli.client.target import TargetOptions
from muster.cli.commands.call_api import RowPage, api_options, call, list_options, show_rows
from muster.cli.console.command_group import CommandGroup
from muster.cli.console.output import OutputFormat, Row, TableLayout, ago, ahead, emit, output_option, say
from muster.cli.console.params import parse_time
from muster.cli.console.prompts import confirm, yes_option
from muster.common.clock import utc_now
from muster.common.contracts.access import Role
from muster.common.contracts.access_bodies import NewKey
from muster.common.contracts.limits import LARGEST_PAGE

if TYPE_CHECKING:
    from muster.client import AsyncMuster
    from muster.common.contracts.access import IssuedKey

ROLES = click.Choice(get_args(Role))


def _cells(row: Row) -> Row:
    used, scopes = row["last_used_at"], row["scopes"]
    return {
        **row,
        "scopes": None if scopes is None else " ".join(scopes),
        "state": _state(row),
        "used": ago(datetime.fromisoformat(used), utc_now()) if used else "never",
        "expires": ahead(datetime.fromisoformat(row["expires_at"]), utc_now()) if row["expires_at"] else "never",
    }


def _state(row: Mapping[str, Any]) -> str:
    if row["revoked_at"]:
        return "revoked"
    ends = row["expires_at"]
    return "expired" if ends and datetime.fromisoformat(ends) <= utc_now() else "valid"


KEYS = TableLayout(
    columns=("key_id", "name", "role", "state", "expires", "used", "user_id", "project", "scopes"),
    dropped_first=("user_id", "project", "used", "expires"),
    hidden_if_empty=("project", "scopes"),
    name="key_id",
    cells=_cells,
)


@click.group(cls=CommandGroup)
def keys() -> None:
    """Create, list and revoke keys."""


@keys.command()
@click.argument("name")
@click.option("--role", type=ROLES, help="Limit the key to this role; otherwise the key has its user's role.")
@click.option(
    *("--scope", "scopes"),
    multiple=True,
    metavar="SCOPE",
    help="Limit the key to scopes such as tasks:read. May be repeated.",
)
@click.option("--project", metavar="NAME", help="Limit the key to this project.")
@click.option("--user", "user_id", metavar="USER", help="Create the key for this user; otherwise for you.")
@click.option(
    "--expires", metavar="WHEN", help="Let the key expire in 12h or 30d, or at 2026-12-31T00:00:00Z; otherwise never."
)
@output_option
@api_options
def create(
    name: str,
    *,
    scopes: tuple[str, ...],
    expires: str | None,
    form: OutputFormat,
    target: TargetOptions,
    **options: str | None,
) -> None:
    """Create a key called NAME and print only the key on stdout. The key cannot be shown again."""
    fields: dict[str, Any] = {field: value for field, value in options.items() if value is not None}
    fields |= {"scopes": list(scopes)} if scopes else {}
    fields |= {"expires_at": parse_time(expires, utc_now())} if expires else {}

    async def act(api: "AsyncMuster") -> "IssuedKey":
        if user := fields.get("user_id"):
            from muster.cli.commands.auth.users import whole_user_id

            fields["user_id"] = await whole_user_id(api, user)
        return await api.keys.issue(NewKey(name=name, **fields))

    issued = call(target, act)
    if form == "table":
        sys.stdout.write(issued.key + "\n")
    elif form == "name":
        sys.stdout.write(issued.key_id + "\n")
    else:
        emit(issued, form)
    until = f"until {issued.view.expires_at:%Y-%m-%d %H:%M:%S} UTC" if issued.view.expires_at else "until it is revoked"
    say(f"{issued.key_id} ({issued.view.role}) is valid {until}. Save the key now: it cannot be shown again.")


@keys.command("list")
@list_options
def list_(*, limit: int, cursor: str | None, watch: bool, form: OutputFormat, target: TargetOptions) -> None:
    """Show keys, newest first. The secret of a key cannot be shown."""

    async def read(api: "AsyncMuster") -> RowPage:
        page = await api.keys.list(limit=limit, cursor=cursor)
        return RowPage(msgspec.to_builtins(page.keys), page.next_cursor)

    none = "No keys yet. `muster auth keys create NAME` creates one."
    show_rows(target, read, form, KEYS, empty=none, watch=watch)


@keys.command()
@click.argument("key_id", metavar="KEY")
@yes_option
@api_options
def revoke(key_id: str, *, yes: bool, target: TargetOptions) -> None:
    """Revoke KEY with immediate effect. KEY is a name, an id, or the unique beginning of an id."""

    async def page(api: "AsyncMuster", cursor: str | None) -> NamedIdPage:
        found = await api.keys.list(limit=LARGEST_PAGE, cursor=cursor)
        rows: list[Row] = msgspec.to_builtins(found.keys)
        # A revoked or expired key is found only by its id, because a newer key may have the same name.
        return [(row["name"] if _state(row) == "valid" else "", row["key_id"]) for row in rows], found.next_cursor

    whole = call(target, lambda api: resolve_named(key_id, "key", "key", lambda cursor: page(api, cursor)))
    confirm(f"Revoke {whole}? Its users lose access at once.", yes=yes)
    call(target, lambda api: api.keys.revoke(whole))
    say(f"{whole} is revoked.")
