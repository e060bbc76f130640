"""Implements `muster completion`, which prints the script that completes commands and options in a shell."""

from typing import Any, cast

import click

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_MUSTER_COMPLETE"
"""The variable by which the script asks `muster` for completions; click derives the name from `muster`."""


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script that completes commands and options of muster in SHELL.

    Save the script in a file that SHELL reads at its start, or in one of these:

    \b
    bash  ~/.local/share/bash-completion/completions/muster
    zsh   _muster, in a folder of $fpath
    fish  ~/.config/fish/completions/muster.fish

    For one session of bash: source <(muster completion bash). The command muster must be on the PATH.
    """  # noqa: D301 - `\b` is the character by which click keeps the lines of a paragraph
    from click.shell_completion import ShellComplete, get_completion_class

    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"completion for {shell} is not available; use one of {', '.join(SHELLS)}")
    # The class for bash would start a bash to check its version. The script may be meant for another machine.
    source = cast("Any", ShellComplete.source)
    click.echo(source(kind(ctx.find_root().command, {}, "muster", VARIABLE)), nl=False)
