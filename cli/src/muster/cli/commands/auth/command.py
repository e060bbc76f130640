"""Defines the group `muster auth` and the table of its subcommands."""

from collections.abc import Mapping

import click

from muster.cli.console.lazy_commands import Lazy, LazyGroup

COMMANDS: Mapping[str, Lazy] = {
    "login": Lazy("muster.cli.commands.auth.login", "login", "Save a key or token for an API after testing it."),
    "logout": Lazy("muster.cli.commands.auth.login", "logout", "Delete the key of a profile from this machine."),
    "whoami": Lazy("muster.cli.commands.auth.login", "whoami", "Show the identity, role and scopes of your key."),
    "keys": Lazy("muster.cli.commands.auth.keys", "keys", "Create, list and revoke keys."),
    "token": Lazy("muster.cli.commands.auth.keys", "keys", "Create, list and revoke keys (alias of `keys`)."),
    "audit": Lazy("muster.cli.commands.auth.audit", "audit", "Show the audit log, newest entries first."),
    "users": Lazy("muster.cli.commands.auth.users", "users", "Add, list, change and delete users."),
}


@click.group(cls=LazyGroup, table=COMMANDS)
def auth() -> None:
    """Log in, manage keys and users, and read the audit log."""
