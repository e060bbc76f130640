"""`muster auth keys`: create, list, revoke."""

import sys
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, get_args

import click
import msgspec

from muster.cli.client.resolve_ids import Named, called
from muster.cli.client.target import TargetOptions
from muster.cli.commands.call_api import RowPage, api_options, call, show_rows
from muster.cli.commands.watching import watch_option
from muster.cli.console.output import Form, Row, Shape, ago, ahead, emit, output_option, say
from muster.cli.console.params import moment, page_options
from muster.cli.console.prompts import confirm, yes_option
from muster.common.clock import utc_now
from muster.common.contracts.identity import Role
from muster.common.contracts.limits import LARGEST_PAGE

if TYPE_CHECKING:
    from muster.cli.client.api import ApiClient
    from muster.common.contracts.identity import IssuedKey

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


KEYS = Shape(
    columns=("key_id", "name", "role", "state", "expires", "used", "user_id", "project", "scopes"),
    spare=("user_id", "project", "used", "expires"),
    rare=("project", "scopes"),
    name="key_id",
    cells=_cells,
)


@click.group()
def keys() -> None:
    """Make, list and revoke keys."""


@keys.command()
@click.argument("name")
@click.option("--role", type=ROLES, help="What it may at most; otherwise what its user may.")
@click.option("--scope", "scopes", multiple=True, metavar="SCOPE", help="Only this, as tasks:read; may be repeated.")
@click.option("--project", help="Only for this project.")
@click.option("--user", "user_id", metavar="USER", help="Whose key it is; otherwise yours.")
@click.option("--expires", metavar="WHEN", help="12h, 30d, or a time as 2026-12-31T00:00:00Z; otherwise never.")
@output_option
@api_options
def create(
    name: str,
    *,
    scopes: tuple[str, ...],
    expires: str | None,
    form: Form,
    target: TargetOptions,
    **given: str | None,
) -> None:
    """Make a key called NAME. The key itself is printed once, alone on stdout; nobody can show it again."""
    fields: dict[str, Any] = {field: value for field, value in given.items() if value is not None}
    fields |= {"scopes": list(scopes)} if scopes else {}
    fields |= {"expires_at": moment(expires, utc_now())} if expires else {}

    async def act(api: "ApiClient") -> "IssuedKey":
        if user := fields.get("user_id"):
            from muster.cli.commands.auth.users import whole_user_id

            fields["user_id"] = await whole_user_id(api, user)
        return await api.identity.issue(name, **fields)

    issued = call(target, act)
    if form == "table":
        sys.stdout.write(issued.key + "\n")
    elif form == "name":
        sys.stdout.write(issued.key_id + "\n")
    else:
        emit(issued, form)
    until = f"until {issued.view.expires_at:%Y-%m-%d %H:%M:%S} UTC" if issued.view.expires_at else "until it is revoked"
    say(f"{issued.key_id} ({issued.view.role}) is valid {until}. Keep the key now: it is not shown again.")


@keys.command("list")
@page_options
@watch_option
@output_option
@api_options
def list_(*, limit: int, cursor: str | None, watch: bool, form: Form, target: TargetOptions) -> None:
    """Show keys, newest first; never their secrets."""

    async def read(api: "ApiClient") -> RowPage:
        page = await api.identity.keys(limit=limit, cursor=cursor)
        return RowPage(msgspec.to_builtins(page.keys), page.next_cursor)

    none = "No keys yet. `muster auth keys create NAME` makes one."
    show_rows(target, read, form, KEYS, empty=none, watch=watch)


@keys.command()
@click.argument("key_id", metavar="KEY")
@yes_option
@api_options
def revoke(key_id: str, *, yes: bool, target: TargetOptions) -> None:
    """Make a key good for nothing, at once. KEY is a name, an id, or the unique beginning of an id."""

    async def page(api: "ApiClient", cursor: str | None) -> Named:
        found = await api.identity.keys(limit=LARGEST_PAGE, cursor=cursor)
        rows: list[Row] = msgspec.to_builtins(found.keys)
        # One that is good for nothing already gave its name up: another of that name is meant.
        return [(row["name"] if _state(row) == "valid" else "", row["key_id"]) for row in rows], found.next_cursor

    whole = call(target, lambda api: called(key_id, "key", "key", lambda cursor: page(api, cursor)))
    confirm(f"Revoke {whole}? Whoever uses it is shut out at once.", yes=yes)
    call(target, lambda api: api.identity.revoke(whole))
    say(f"{whole} is revoked.")
