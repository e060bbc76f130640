"""Defines `muster model list`, `test` and `remove`. The module `addition` defines `muster model add`."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import msgspec

from muster.cli.commands.call_api import PATH
from muster.cli.commands.model.addition import add
from muster.cli.commands.model.model_file import ModelFile
from muster.cli.commands.model.trial_process import TRIAL_DEADLINE_S, StepStatus, run_trial_process
from muster.cli.commands.model.trial_report import context_tokens, exit_of, measured, problem
from muster.cli.console.command_group import CommandGroup
from muster.cli.console.output import (
    Exit,
    OutputFormat,
    Row,
    TableLayout,
    describe,
    emit,
    emit_rows,
    fail,
    output_option,
    say,
)
from muster.cli.console.prompts import confirm, yes_option
from muster.common.model_entries import ModelEntry
from muster.common.model_keys import SCRIPTED, provider_keys, provider_of

MODELS = TableLayout(
    columns=("name", "kind", "model", "address", "key", "settings"),
    dropped_first=("settings", "kind", "address"),
    hidden_if_empty=("settings",),
    cells=lambda row: {**row, "settings": _settings_text(row["settings"])},
)
_SETTINGS = {
    "max_output_tokens": "output",
    "context_tokens": "context",
    "temperature": "temperature",
    "effort": "effort",
    "input_usd_per_million": "$/M in",
    "output_usd_per_million": "$/M out",
}
"""The settings of an entry, and their short names in the table."""


@click.group(cls=CommandGroup)
def model() -> None:
    """Store, list, test and remove the models of the stack on this machine.

    A model of your own server is an entry in models.toml in the data directory (or in MUSTER_MODELS_FILE). A task names
    it as --model NAME. Hosted models, such as openai/gpt-5-mini, need no entry, only the provider's key.
    """


model.add_command(add)


def data_option[F: Any](command: F) -> F:
    """Add the option `--data`, which selects the data directory."""
    text = "Use the data directory DIR. [MUSTER_DATA_DIR]"
    return click.option("--data", metavar="DIR", type=PATH, help=text)(command)


@model.command("list")
@data_option
@output_option
def list_(data: Path | None, *, form: OutputFormat) -> None:
    """List the stored models, and the hosted providers with a key here.

    No key is shown, only the variable or file that contains it.
    """
    file = ModelFile.find(data)
    rows = [_row(name, entry, file) for name, entry in sorted(file.usable().items())]
    hosted = [_hosted_row(key.provider, key.found) for key in provider_keys(os.environ) if key.found]
    empty = (
        "No models yet. `muster model add NAME --kind KIND` stores a model server, and a provider's key in the "
        "environment, such as OPENAI_API_KEY, allows its hosted models."
    )
    emit_rows([*rows, *hosted], form, MODELS, empty=empty)


@model.command()
@click.argument("name")
@click.option(
    "--timeout",
    "timeout_s",
    metavar="SECONDS",
    type=click.FloatRange(1, 3600),
    default=TRIAL_DEADLINE_S,
    show_default=True,
    help="End the test after this time.",
)
@data_option
@output_option
def test(name: str, timeout_s: float, data: Path | None, *, form: OutputFormat) -> None:
    """Ask the model NAME for one word and for one tool call.

    NAME is a stored model or a hosted one, such as openai/gpt-5-mini. The test uses the code, the keys and the
    variables that the gateway would use. The exit code is 0 only if the model answers and calls tools.
    """
    file = ModelFile.find(data)
    entry = find_entry(name, file)
    with StepStatus(name) as show:
        result = run_trial_process(name, file.data_dir, timeout_s, show)
    text, code = problem(result, entry, file.path), exit_of(result)
    if form == "table":
        if not result.failed:
            describe(measured(result, entry, file.path))
        if text:
            fail(text, code)
        say("The model can be used: it answers and calls tools.")
    elif form == "name":
        if code is Exit.OK:
            emit_rows([{"name": name}], form, MODELS)
    else:
        size = context_tokens(entry, file.path) if entry and not result.failed else None
        emit({**msgspec.to_builtins(result), "context_tokens": size, "problem": text}, form)
    sys.exit(code)


@model.command()
@click.argument("name")
@yes_option
@data_option
def remove(name: str, data: Path | None, *, yes: bool) -> None:
    """Remove the model NAME, and delete its stored key."""
    file = ModelFile.find(data)
    entry = file.entries().get(name)
    if entry is None:
        fail(f"there is no model {name!r} in {file.path}; `muster model list` shows all", Exit.NOT_FOUND)
    if entry.key_file:
        confirm(f"Remove the model {name} and delete its key from this machine?", yes=yes)
    file.remove(name)
    say(f"Model {name} is removed.{' Its key is deleted.' if entry.key_file else ''}")


def find_entry(name: str, file: ModelFile) -> ModelEntry | None:
    """Return the entry of a model, or None for a hosted model. End the command if there is no such model."""
    if "/" not in name and (entry := file.usable().get(name)):
        return entry
    if provider_of(name) == SCRIPTED:
        fail("a scripted model calls no server, so there is nothing to test", Exit.USAGE)
    if not provider_of(name):
        fail(
            f"there is no model {name!r} in {file.path}: `muster model list` shows all, `muster model add` stores one, "
            "and a hosted model is named as provider/model, such as openai/gpt-5-mini",
            Exit.NOT_FOUND,
        )
    return None


def _row(name: str, entry: ModelEntry, file: ModelFile) -> Row:
    settings: Mapping[str, Any] = {field: getattr(entry, field) for field in _SETTINGS}
    return {
        "name": name,
        "kind": entry.kind,
        "model": entry.model,
        "address": entry.address,
        "key": _key_text(entry, file),
        "settings": {field: value for field, value in settings.items() if value is not None},
    }


def _hosted_row(provider: str, found: str | None) -> Row:
    return {
        "name": f"{provider}/…",
        "kind": "hosted",
        "model": "",
        "address": "",
        "key": f"{found} set",
        "settings": {},
    }


def _key_text(entry: ModelEntry, file: ModelFile) -> str:
    if entry.key_env:
        return f"{entry.key_env} {'set' if os.environ.get(entry.key_env, '').strip() else 'not set'}"
    if entry.key_file:
        return "file" if (file.path.parent / entry.key_file).exists() else "file missing"
    return "none"


def _settings_text(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{_SETTINGS[field]} {value}" for field, value in settings.items())
