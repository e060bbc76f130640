"""Defines command groups that import a subcommand only when the user calls it, so that `--help` is fast."""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, override

import click

from muster.cli.console.command_group import CommandGroup

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class Lazy(NamedTuple):
    """The module and attribute of a subcommand, and its line in the group's help."""

    module: str
    attribute: str
    help: str


class LazyGroup(CommandGroup):
    """A click group whose `--help` needs only a table of names and help lines, not the subcommands' modules."""

    def __init__(self, *args: Any, table: Mapping[str, Lazy], **kwargs: Any) -> None:  # noqa: ANN401 - as in click
        super().__init__(*args, **kwargs)
        self.table = table

    @override
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.table)

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if lazy := self.table.get(self.full_name(ctx, cmd_name)):
            return getattr(import_module(lazy.module), lazy.attribute)
        return None

    @override
    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.help) for name, lazy in self.table.items()])

    @override
    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem[Any]]":
        from click.shell_completion import CompletionItem

        # Click would import the module of every subcommand, only to print its help line.
        names = [
            CompletionItem(name, help=lazy.help) for name, lazy in self.table.items() if name.startswith(incomplete)
        ]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]
