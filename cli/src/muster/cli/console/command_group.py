"""Defines the class of all command groups: short names for common commands, and suggestions for mistyped ones."""

from typing import override

import click
from click.exceptions import NoSuchCommand

SHORT_NAMES = {"ls": ("list",), "rm": ("delete", "remove")}
"""Short names of commands. A group without a command `ls` calls its command `list`, and so on."""


class CommandGroup(click.Group):
    """A click group whose commands also have short names, and which suggests a similar name for an unknown one."""

    def full_name(self, ctx: click.Context, name: str) -> str:
        """Return the name of the command that `name` means; an unknown name is returned unchanged."""
        names = self.list_commands(ctx)
        if name in names:
            return name
        return next((full for full in SHORT_NAMES.get(name, ()) if full in names), name)

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, self.full_name(ctx, cmd_name))

    @override
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = self.full_name(ctx, args[0])
        if name not in self.list_commands(ctx) and not ctx.resilient_parsing:
            raise self.no_such_command(ctx, args[0])
        # The context of the command has the full name, so that its help and its errors contain this name.
        return super().resolve_command(ctx, [name, *args[1:]])

    def no_such_command(self, ctx: click.Context, name: str) -> NoSuchCommand:
        """Return the error for an unknown command, with the names of similar commands."""
        message = f"No such command {name!r}. `{ctx.command_path} --help` lists them."
        return NoSuchCommand(name, message, self.list_commands(ctx), ctx)
