"""`muster auth`: a table of its subcommands."""

from collections.abc import Mapping

import click

from muster.cli.console.lazy_commands import Lazy, LazyGroup

COMMANDS: Mapping[str, Lazy] = {
    "login": Lazy("muster.cli.commands.auth.login", "login", "Keep a key or token for an API, once it is proved."),
    "logout": Lazy("muster.cli.commands.auth.login", "logout", "Forget the key of a profile."),
    "whoami": Lazy("muster.cli.commands.auth.login", "whoami", "Show who the API takes you for, and what you may do."),
    "keys": Lazy("muster.cli.commands.auth.keys", "keys", "Make, list and revoke keys."),
    "token": Lazy("muster.cli.commands.auth.keys", "keys", "Another word for keys: `token create` makes one."),
    "audit": Lazy("muster.cli.commands.auth.audit", "audit", "Show who did what, newest first."),
    "users": Lazy("muster.cli.commands.auth.users", "users", "Add, list, change and delete users."),
}


@click.group(cls=LazyGroup, table=COMMANDS)
def auth() -> None:
    """Log in; make and revoke keys; say who may do what."""
