"""Implements `muster auth users list | add | set | delete`, which manage users."""

from datetime import datetime
from typing import TYPE_CHECKING, Any, get_args

import click
import msgspec

from muster.cli.client.resolve_ids import NamedIdPage, resolve_named
from muster.cli.client.target import TargetOptions
from muster.cli.commands.call_api import RowPage, api_options, call, list_options, show_rows
from muster.cli.console.command_group import CommandGroup
from muster.cli.console.output import OutputFormat, Row, TableLayout, ago, emit_row, output_option, say
from muster.cli.console.prompts import confirm, yes_option
from muster.common.clock import utc_now
from muster.common.contracts.access import Role
from muster.common.contracts.access_bodies import NewUser, UserChange
from muster.common.contracts.limits import LARGEST_PAGE

if TYPE_CHECKING:
    from muster.client import AsyncMuster

ROLES = click.Choice(get_args(Role))
NO_ROLE = "none"


def _cells(row: Row) -> Row:
    seen = row["last_seen_at"]
    return {
        **row,
        "state": "disabled" if row["disabled"] else "active",
        "seen": ago(datetime.fromisoformat(seen), utc_now()) if seen else "never",
    }


USERS = TableLayout(
    columns=("user_id", "name", "email", "role", "state", "seen", "issuer"),
    dropped_first=("issuer", "seen", "email"),
    hidden_if_empty=("issuer", "email"),
    name="user_id",
    cells=_cells,
)


@click.group(cls=CommandGroup)
def users() -> None:
    """Add, list, change and delete users. A user without a role has no access."""


@users.command("list")
@list_options
def list_(*, limit: int, cursor: str | None, watch: bool, form: OutputFormat, target: TargetOptions) -> None:
    """Show users, newest first."""

    async def read(api: "AsyncMuster") -> RowPage:
        page = await api.users.list(limit=limit, cursor=cursor)
        return RowPage(msgspec.to_builtins(page.users), page.next_cursor)

    show_rows(target, read, form, USERS, empty="No users yet. `muster auth users add` adds one.", watch=watch)


@users.command()
@click.argument("name")
@click.option("--role", type=ROLES, help="Give the user this role; otherwise the user has none.")
@click.option("--email", metavar="ADDRESS", help="Store the user's e-mail address.")
@output_option
@api_options
def add(name: str, *, role: Role | None, email: str | None, form: OutputFormat, target: TargetOptions) -> None:
    """Add a user called NAME. Then create a key with `muster auth keys create KEY --user NAME`."""

    async def act(api: "AsyncMuster") -> Row:
        return msgspec.to_builtins(await api.users.add(NewUser(name=name, role=role, email=email)))

    emit_row(call(target, act), form, USERS)


@users.command("set")
@click.argument("user_id", metavar="USER")
@click.option("--name", metavar="NAME", help="Rename the user.")
@click.option("--email", metavar="ADDRESS", help="Change the e-mail address.")
@click.option("--role", type=click.Choice((*get_args(Role), NO_ROLE)), help="Change the role, or remove it with none.")
@click.option("--disable/--enable", "disabled", default=None, help="Refuse all access of the user, or allow it again.")
@output_option
@api_options
def set_(
    user_id: str,
    *,
    name: str | None,
    email: str | None,
    role: str | None,
    disabled: bool | None,
    form: OutputFormat,
    target: TargetOptions,
) -> None:
    """Change the name, e-mail address, role or access of USER.

    USER is a name, an id, or the unique beginning of an id.
    """
    options = {"name": name, "email": email, "role": role, "disabled": disabled}
    changes = {field: value for field, value in options.items() if value is not None}
    fields: dict[str, Any] = changes | ({"role": None} if role == NO_ROLE else {})
    if not fields:
        raise click.UsageError("nothing to change: give --name, --email, --role, --disable or --enable")

    async def act(api: "AsyncMuster") -> Row:
        return msgspec.to_builtins(await api.users.update(await whole_user_id(api, user_id), UserChange(**fields)))

    emit_row(call(target, act), form, USERS)


@users.command()
@click.argument("user_id", metavar="USER")
@yes_option
@api_options
def delete(user_id: str, *, yes: bool, target: TargetOptions) -> None:
    """Delete USER and all keys of that user. USER is a name, an id, or the unique beginning of an id."""
    whole = call(target, lambda api: whole_user_id(api, user_id))
    confirm(f"Delete {whole} and all keys of that user?", yes=yes)
    call(target, lambda api: api.users.delete(whole))
    say(f"{whole} is deleted.")


async def whole_user_id(api: "AsyncMuster", text: str) -> str:
    """Return the id of the user named `text`, or else of the only user whose id begins with `text`.

    Ends the command if no user or more than one user matches.
    """

    async def page(cursor: str | None) -> NamedIdPage:
        found = await api.users.list(limit=LARGEST_PAGE, cursor=cursor)
        return [(user.name, user.user_id) for user in found.users], found.next_cursor

    return await resolve_named(text, "usr", "user", page)
