"""Every field of a task and of an agent can be given on the command line."""

import click
import pytest

from muster.cli.commands.agent.registration import register, update
from muster.cli.commands.task.submission import submit
from muster.cli.commands.task_options import task_fields
from muster.common.contracts.agent_bodies import AgentChange, NewAgent
from muster.common.contracts.task_bodies import NewTask

NAMES = {"agent": "agent_id", "target": "target_file"}


def given(command: click.Command) -> set[str]:
    return {NAMES.get(one.name or "", one.name or "") for one in command.params}


@pytest.mark.parametrize(("command", "body"), [(submit, NewTask), (register, NewAgent), (update, AgentChange)])
def test_each_field_has_an_option(command: click.Command, body: type[NewTask | NewAgent | AgentChange]):
    assert set(body.__struct_fields__) - given(command) == set()


def test_missing_options_set_no_field():
    nothing = {one.name: () if one.multiple else None for one in submit.params if isinstance(one, click.Option)}

    assert task_fields({str(name): value for name, value in nothing.items()}) == {}


def test_empty_repository_is_not_taken_for_none():
    nothing = {one.name: () if one.multiple else None for one in submit.params if isinstance(one, click.Option)}

    assert task_fields({str(name): value for name, value in nothing.items()} | {"repo": ""})["repo"].url == ""
