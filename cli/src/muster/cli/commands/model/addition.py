"""Defines `muster model add`."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, get_args

import click
import msgspec

from muster.cli.client.target import read_ready_file
from muster.cli.commands.call_api import PATH
from muster.cli.commands.model.model_file import KEYS_FOLDER, ModelFile, fail_existing, read_key
from muster.cli.commands.model.server_listing import ListingError, ServerModel, has_model, listed_models
from muster.cli.commands.model.trial_report import shown_names
from muster.cli.console.output import Exit, fail, say
from muster.cli.console.params import NUMBER
from muster.common.faults import InvalidMessage
from muster.common.model_entries import KINDS, Kind, ModelEntry, check_entry, key_of
from muster.common.terminal import printable
from muster.embedded.stack_directory import holder

_OPTIONS = {
    "$.name": "NAME",
    "$.input_usd_per_million": "--input-price",
    "$.output_usd_per_million": "--output-price",
    "$.key_env": "--key-env",
}
"""The options of fields whose names differ from the option."""
_UNKNOWN = "unknown"
"""Stands for the model's name while the server is asked for it."""


def settings_options[F: Callable[..., Any]](command: F) -> F:
    """Add the options with settings of a model. Each may be left out."""
    for option in (
        click.option(
            "--output-price",
            "output_usd_per_million",
            metavar="USD",
            type=NUMBER,
            help="Set the price of a million output tokens in US dollars.",
        ),
        click.option(
            "--input-price",
            "input_usd_per_million",
            metavar="USD",
            type=NUMBER,
            help="Set the price of a million input tokens in US dollars.",
        ),
        click.option("--effort", metavar="WORD", help="Set the reasoning effort, such as low, medium or high."),
        click.option("--temperature", metavar="T", type=NUMBER, help="Set the temperature, 0 to 2."),
        click.option("--context-tokens", metavar="N", type=int, help="Set the size of the context window in tokens."),
        click.option("--max-output-tokens", metavar="N", type=int, help="Set the most tokens of one answer."),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("name")
@click.option(
    "--kind",
    required=True,
    type=click.Choice(get_args(Kind)),
    metavar="KIND",
    help=f"Set the kind of server: {', '.join(KINDS)}.",
)
@click.option("--model", metavar="ID", help="Set the model's name at its server. Without it the server is asked.")
@click.option("--base-url", metavar="URL", help="Set the address of the server, if it is not the usual one.")
@click.option("--key-env", metavar="VAR", help="Read the key from this variable where the stack is started.")
@click.option("--key-stdin", is_flag=True, help="Read the key from stdin now, and store it in a private file.")
@settings_options
@click.option("--replace", is_flag=True, help="Replace the model NAME if it exists.")
@click.option("--no-check", is_flag=True, help="Do not ask the server whether it has the model.")
@click.option("--data", metavar="DIR", type=PATH, help="Store the model in the data directory DIR. [MUSTER_DATA_DIR]")
def add(name: str, *, key_stdin: bool, replace: bool, no_check: bool, data: Path | None, **fields: Any) -> None:  # noqa: ANN401 - the fields of an entry
    """Store a model server as NAME, for tasks with --model NAME.

    NAME is of letters, digits, dots, - and _. The kind openai fits each server with OpenAI's API, such as LM Studio or
    llama.cpp. A running stack uses the model at once. Prices are for a million tokens.
    """
    if key_stdin and fields["key_env"]:
        raise click.UsageError("--key-env and --key-stdin both give a key: give only one of them")
    if no_check and not fields["model"]:
        raise click.UsageError("give --model too: with --no-check the server is not asked for its models")
    entry = _valid(name, {**fields, "key_file": f"{KEYS_FOLDER}/{name}" if key_stdin else None})
    file = ModelFile.find(data)
    old = file.entries().get(name)
    if old and not replace:
        fail_existing(name, file.path)
    if old and not key_stdin and not entry.key_env and (old.kind, old.address) == (entry.kind, entry.address):
        entry = msgspec.structs.replace(entry, key_env=old.key_env, key_file=old.key_file)
    if KINDS[entry.kind].needs_key and not entry.key_env and not entry.key_file:
        raise click.UsageError(f"a model of kind {entry.kind} needs a key: give --key-env VAR or --key-stdin")
    key = read_key() if key_stdin else None
    if not no_check:
        entry = _checked(entry, key, file)
    file.store(name, entry, key, replace=replace)
    say(f"Model {name} is stored in {file.path}: {entry.model} at {entry.address}.")
    _say_when_used(entry, file)
    option = f" --data {file.data_dir}" if data else ""
    say(f'Next: `muster model test {name}{option}`, then `muster task submit "…" --model {name}`')


def _valid(name: str, fields: dict[str, Any]) -> ModelEntry:
    given = {field: value for field, value in fields.items() if value is not None}
    try:
        entry = msgspec.convert({"model": _UNKNOWN, **given}, ModelEntry)
        check_entry(name, entry)
    except (msgspec.ValidationError, InvalidMessage) as error:
        fault = error if isinstance(error, InvalidMessage) else InvalidMessage.at(error, ModelEntry)
        field = fault.field or ""
        option = _OPTIONS.get(field, f"--{field.removeprefix('$.').replace('_', '-')}")
        fail(f"{option}: {fault}", Exit.USAGE)
    return entry if "model" in given else msgspec.structs.replace(entry, model="")


def _checked(entry: ModelEntry, key: str | None, file: ModelFile) -> ModelEntry:
    """Return the entry with a model that its server has; end the command if the server has none or another one."""
    try:
        models = listed_models(entry, key_of(entry, file.path, os.environ) if key is None else key)
    except InvalidMessage as error:  # The variable with the key is not set here.
        return _unchecked(entry, str(error))
    except ListingError as error:
        if error.kind == "no_list":
            return _unchecked(entry, str(error))
        _fail_listing(error, entry)
    if not entry.model:
        return msgspec.structs.replace(entry, model=_only(models, entry).name)
    if models and not has_model(entry, models):
        fail(
            f"the server at {entry.address} has no model {entry.model}. It has: {shown_names(models)}. Give one of "
            "them as --model, or skip this check with --no-check",
            Exit.NOT_FOUND,
        )
    return entry


def _unchecked(entry: ModelEntry, why: str) -> ModelEntry:
    if not entry.model:
        fail(f"the server cannot be asked for its models, so give --model: {why}", Exit.USAGE)
    say(f"The server was not asked whether it has the model: {why}.")
    return entry


def _only(models: list[ServerModel], entry: ModelEntry) -> ServerModel:
    if not models:
        fail(f"the server at {entry.address} has no model yet. Load one, or give --model", Exit.NOT_FOUND)
    if len(models) > 1:
        for model in models:
            sys.stdout.write(f"{printable(model.name)}\n")
        fail("the server has several models; give one of them as --model", Exit.USAGE)
    say(f"The server has one model, which is used: {models[0].name}")
    return models[0]


def _fail_listing(error: ListingError, entry: ModelEntry) -> NoReturn:
    if error.kind == "unreachable":
        fail(
            f"{error}. Is the server running at {entry.address}? Start it or correct --base-url; "
            "--model with --no-check stores the model without this check",
            Exit.UNREACHABLE,
        )
    place = entry.key_env or ("--key-stdin" if entry.key_file else "--key-env or --key-stdin")
    fail(f"{error}. Give the right key: {place}", Exit.AUTH)


def _say_when_used(entry: ModelEntry, file: ModelFile) -> None:
    """Say whether a running stack can use the model at once. Only the gateway's start reads variables with keys."""
    ready = read_ready_file(file.data_dir / "ready.json") if holder(file.data_dir) is not None else None
    if ready is None:
        if entry.key_env and not os.environ.get(entry.key_env, "").strip():
            say(f"Set {entry.key_env} before `muster up`: it must contain the key.")
        return
    if entry.key_env and entry.key_env not in ready.model_keys:
        say(
            f"The running stack was started without {entry.key_env}. Set it and restart the stack, or store the key "
            "with --key-stdin, which a running stack uses at once."
        )
    else:
        say("The running stack uses the model at once.")
