"""Parses option values: labels, JSON, files, durations and times."""

import re
import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click
import msgspec

from muster.cli.console.output import Exit, fail

_DURATION = re.compile(r"(\d+)\s*(s|m|min|h|d|w)")
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}


def labels_option[F: Callable[..., Any]](text: str) -> Callable[[F], F]:
    """Add the repeatable option `-l NAME=VALUE` with the help `text`, passed to the command as `labels`."""
    return click.option("-l", "--label", "labels", multiple=True, metavar="NAME=VALUE", callback=_labels, help=text)


def _labels(_: click.Context, __: click.Parameter, words: Sequence[str]) -> dict[str, str]:
    return dict(parse_pair(word, "a label") for word in words)


def parse_pair(text: str, noun: str) -> tuple[str, str]:
    """Split `NAME=VALUE` into name and value. Raises `click.UsageError` if there is no `=`; `noun` names the text."""
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise click.UsageError(f"{noun} must be NAME=VALUE, not {text!r}")
    return name, value


def read_value(text: str, option: str) -> bytes:
    """Return the content of an option's value: all of stdin for `-`, the file for `@FILE`, otherwise the text itself.

    Ends the command, with an error that names `option`, if the file cannot be read.
    """
    if text == "-":
        return sys.stdin.buffer.read()
    if not text.startswith("@"):
        return text.encode()
    try:
        return Path(text[1:]).read_bytes()
    except OSError as error:
        fail(f"{option}: the file {text[1:]} cannot be read: {error.strerror}", Exit.USAGE)


def parse_json_object(text: str, option: str) -> dict[str, Any]:
    """Parse an option's value (see `read_value`) as a JSON object; end the command if it is not one."""
    try:
        return msgspec.json.decode(read_value(text, option), type=dict[str, Any])
    except msgspec.DecodeError as error:
        fail(f"{option} must be a JSON object: {error}", Exit.USAGE)


def parse_time(text: str, now: datetime) -> datetime:
    """Parse a duration from `now` on (`30d`, `12h`, `90min`) or an RFC 3339 time; end the command otherwise."""
    if found := _DURATION.fullmatch(text.strip()):
        return now + timedelta(seconds=int(found[1]) * _UNITS[found[2]])
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        fail(f"{text!r} is not a time. Give a duration such as 12h or 30d, or 2026-12-31T00:00:00Z", Exit.USAGE)
    return time
