"""Parses option values: labels, JSON, files, durations and times."""

import math
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
    """Add the repeatable option `-l NAME=VALUE` with `text` as its help; the command receives a dict `labels`."""
    return click.option("-l", "--label", "labels", multiple=True, metavar="NAME=VALUE", callback=_labels, help=text)


def _labels(_: click.Context, __: click.Parameter, words: Sequence[str]) -> dict[str, str]:
    return dict(parse_pair(word, "a label") for word in words)


def parse_pair(text: str, noun: str) -> tuple[str, str]:
    """Split `NAME=VALUE` into name and value. Raises `click.UsageError`, whose text begins with `noun`."""
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
    """Parse an option's value, or the file it names, as a JSON object; end the command if this fails."""
    try:
        return msgspec.json.decode(read_value(text, option), type=dict[str, Any])
    except msgspec.DecodeError as error:
        fail(f"{option} must be a JSON object: {error}", Exit.USAGE)


def parse_time(text: str, now: datetime) -> datetime:
    """Return the time in `text`, which is a duration from `now` (`30d`, `12h`, `90min`) or an RFC 3339 time.

    Ends the command if the text is neither a duration nor a time.
    """
    if found := _DURATION.fullmatch(text.strip()):
        return _later(now, int(found[1]) * _UNITS[found[2]], text)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        fail(f"{text!r} is not a time. Give a duration such as 12h or 30d, or 2026-12-31T00:00:00Z", Exit.USAGE)
    return time


def parse_past(text: str | None, now: datetime) -> datetime | None:
    """Return the time that an option's value means. A duration such as `12h` means that long before `now`."""
    if text is None:
        return None
    time = parse_time(text, now)
    return now - (time - now) if time > now else time


def _later(now: datetime, seconds: int, text: str) -> datetime:
    try:
        return now + timedelta(seconds=seconds)
    except OverflowError:
        fail(f"{text!r} ends after the year 9999. Give a shorter duration", Exit.USAGE)


class FiniteNumber(click.ParamType[float, Any]):
    """The type of an option whose value is a number, but not NaN or infinity, which JSON cannot contain."""

    name = "number"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number. Raises `click.UsageError` for any other text."""
        try:
            number = float(str(value))
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


NUMBER = FiniteNumber()
