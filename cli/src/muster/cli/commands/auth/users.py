"""`muster auth users`: list, add, set, delete."""

from datetime import datetime
from typing import TYPE_CHECKING, Any, get_args

import click
import msgspec

from muster.cli.client.resolve_ids import Named, called
from muster.cli.client.target import TargetOptions
from muster.cli.commands.call_api import RowPage, api_options, call, show_rows
from muster.cli.commands.watching import watch_option
from muster.cli.console.output import Form, Row, Shape, ago, emit_row, output_option, say
from muster.cli.console.params import page_options
from muster.cli.console.prompts import confirm, yes_option
from muster.common.clock import utc_now
from muster.common.contracts.identity import Role
from muster.common.contracts.limits import LARGEST_PAGE

if TYPE_CHECKING:
    from muster.cli.client.api import ApiClient

ROLES = click.Choice(get_args(Role))
NO_ROLE = "none"


def _cells(row: Row) -> Row:
    seen = row["last_seen_at"]
    return {
        **row,
        "state": "disabled" if row["disabled"] else "active",
        "seen": ago(datetime.fromisoformat(seen), utc_now()) if seen else "never",
    }


USERS = Shape(
    columns=("user_id", "name", "email", "role", "state", "seen", "issuer"),
    spare=("issuer", "seen", "email"),
    rare=("issuer", "email"),
    name="user_id",
    cells=_cells,
)


@click.group()
def users() -> None:
    """Add, list, change and delete users. A user without a role may do nothing."""


@users.command("list")
@page_options
@watch_option
@output_option
@api_options
def list_(*, limit: int, cursor: str | None, watch: bool, form: Form, target: TargetOptions) -> None:
    """Show users, newest first."""

    async def read(api: "ApiClient") -> RowPage:
        page = await api.identity.users(limit=limit, cursor=cursor)
        return RowPage(msgspec.to_builtins(page.users), page.next_cursor)

    show_rows(target, read, form, USERS, empty="No users yet. `muster auth users add` makes one.", watch=watch)


@users.command()
@click.argument("name")
@click.option("--role", type=ROLES, help="What the user may do.")
@click.option("--email", help="How the user can be reached.")
@output_option
@api_options
def add(name: str, *, form: Form, target: TargetOptions, **given: str | None) -> None:
    """Make a user called NAME. `muster auth keys create --user NAME` then makes a key."""
    fields = {field: value for field, value in given.items() if value is not None}

    async def act(api: "ApiClient") -> Row:
        return msgspec.to_builtins(await api.identity.add_user(name, **fields))

    emit_row(call(target, act), form, USERS)


@users.command("set")
@click.argument("user_id", metavar="USER")
@click.option("--name", help="Another name.")
@click.option("--email", help="Another address.")
@click.option("--role", type=click.Choice((*get_args(Role), NO_ROLE)), help="Another role, or none.")
@click.option("--disable/--enable", "disabled", default=None, help="Shut out, or let in again; keys and all.")
@output_option
@api_options
def set_(user_id: str, *, form: Form, target: TargetOptions, **given: Any) -> None:  # noqa: ANN401 - the options that are fields
    """Change what is given. USER is a name, an id, or the unique beginning of an id."""
    said = {field: value for field, value in given.items() if value is not None}
    fields = said | ({"role": None} if said.get("role") == NO_ROLE else {})
    if not fields:
        raise click.UsageError("nothing to change: give --name, --email, --role, --disable or --enable")

    async def act(api: "ApiClient") -> Row:
        return msgspec.to_builtins(await api.identity.change_user(await whole_user_id(api, user_id), **fields))

    emit_row(call(target, act), form, USERS)


@users.command()
@click.argument("user_id", metavar="USER")
@yes_option
@api_options
def delete(user_id: str, *, yes: bool, target: TargetOptions) -> None:
    """Forget USER, who is named by name or id; the keys go too."""
    whole = call(target, lambda api: whole_user_id(api, user_id))
    confirm(f"Delete {whole} and all keys of that user?", yes=yes)
    call(target, lambda api: api.identity.delete_user(whole))
    say(f"{whole} is deleted.")


async def whole_user_id(api: "ApiClient", given: str) -> str:
    """A user's id from the name or the unique beginning of the id; ends the command when there is none."""

    async def page(cursor: str | None) -> Named:
        found = await api.identity.users(limit=LARGEST_PAGE, cursor=cursor)
        return [(user.name, user.user_id) for user in found.users], found.next_cursor

    return await called(given, "usr", "user", page)
