"""All commands have the same options for the same purpose."""

from collections.abc import Iterator

import click
import pytest

from muster.cli.app import muster
from muster.cli.console.output import OUTPUT_FORMATS

KEPT = {*(f"profile {verb}" for verb in ("list", "show", "use", "add", "remove")), "auth login", "auth logout"}
"""They are about profiles."""
MODELS = {f"model {verb}" for verb in ("add", "list", "test", "remove")}
LOCAL = (
    KEPT
    | MODELS
    | {"up", "down", "status", "ps", "logs", "restart", "doctor", "demo", "agent new", "completion", "help"}
)
"""They call no API, or the one that is kept."""
SILENT = {
    *(
        "down",
        "restart",
        "completion",
        "help",
        "api",
        "agent new",
        "agent delete",
        "auth login",
        "auth logout",
        "auth users delete",
    ),
    *("auth keys revoke", "auth token revoke", "profile use", "profile add", "profile remove"),
    *("model add", "model remove", "sandbox cp", "task payload"),
}
"""They show nothing, or what an API answers as it is."""
FOR_GOOD = {
    *("task cancel", "agent delete", "auth keys revoke", "auth token revoke", "auth users delete"),
    *("auth logout", "profile remove", "model remove"),
}


def commands(group: click.Group = muster, *above: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, *above, name)
        else:
            yield " ".join((*above, name)), command


ALL = dict(commands())


def options(command: click.Command) -> dict[str, click.Option]:
    return {name: one for one in command.params if isinstance(one, click.Option) for name in one.opts}


@pytest.mark.parametrize("name", sorted(ALL))
def test_commands_of_one_kind_have_the_same_options(name: str):
    given = options(ALL[name])

    assert (name in LOCAL) is not ({"--url", "--key", "--profile", "--data"} <= set(given))
    assert (name in SILENT) is ("--output" not in given)
    if name not in SILENT:
        assert given["--output"].opts == ["-o", "--output"]
        assert isinstance(given["--output"].type, click.Choice)
        assert tuple(given["--output"].type.choices) == OUTPUT_FORMATS
    assert (name in FOR_GOOD) is ("--yes" in given)


def groups(group: click.Group = muster, *above: str) -> Iterator[tuple[str, click.Group]]:
    yield " ".join(above), group
    context = click.Context(group)
    for name in group.list_commands(context):
        if isinstance(inner := group.get_command(context, name), click.Group):
            yield from groups(inner, *above, name)


@pytest.mark.parametrize(("name", "group"), list(groups()))
def test_help_of_a_group_shows_a_complete_line_for_each_command(name: str, group: click.Group):
    told = group.get_help(click.Context(group, info_name=f"muster {name}", terminal_width=80))

    commands_section = told.partition("Commands:")[2]
    assert commands_section
    assert "..." not in commands_section


@pytest.mark.parametrize("name", sorted(ALL))
def test_help_fits_into_80_columns(name: str):
    context = click.Context(ALL[name], info_name=f"muster {name}", terminal_width=80)

    text = ALL[name].get_help(context)

    assert max(map(len, text.splitlines())) <= 80
    assert all(one.help for one in options(ALL[name]).values() if not one.hidden)
