"""Defines command groups that import a subcommand only when the user calls it, so that `--help` is fast."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple, override

import click


class Lazy(NamedTuple):
    """The module and attribute of a subcommand, and its line in the group's help."""

    module: str
    attribute: str
    help: str


class LazyGroup(click.Group):
    """A click group whose `--help` needs only a table of names and help lines, not the subcommands' modules."""

    def __init__(self, *args: Any, table: Mapping[str, Lazy], **kwargs: Any) -> None:  # noqa: ANN401 - as in click
        super().__init__(*args, **kwargs)
        self.table = table

    @override
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.table)

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if lazy := self.table.get(cmd_name):
            return getattr(import_module(lazy.module), lazy.attribute)
        return None

    @override
    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.help) for name, lazy in self.table.items()])

    @override
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        # For an unknown name, click would import the module of every subcommand, only to suggest a similar name.
        if args[0] not in self.table:
            ctx.fail(f"No such command {args[0]!r}. `{ctx.command_path} --help` lists them.")
        return super().resolve_command(ctx, args)
