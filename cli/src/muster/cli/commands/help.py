"""Implements `muster help`, which prints the help of a command."""

import click

from muster.cli.console.command_group import CommandGroup


@click.command("help")
@click.argument("words", metavar="[COMMAND]...", nargs=-1)
@click.pass_context
def help_(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Show the help of COMMAND, as in `muster help task submit`; without COMMAND, list all commands."""
    here = ctx.find_root()
    for word in words:
        group = here.command
        if not isinstance(group, click.Group):
            raise click.UsageError(f"`{here.command_path}` has no subcommands, so {word!r} means nothing", here)
        command = group.get_command(here, word)
        if command is None:
            if isinstance(group, CommandGroup):
                raise group.no_such_command(here, word)
            raise click.UsageError(f"No such command {word!r}.", here)
        name = group.full_name(here, word) if isinstance(group, CommandGroup) else word
        here = click.Context(command, here, info_name=name)
    click.echo(here.command.get_help(here))
