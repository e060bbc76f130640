"""Values that options take in words: labels, JSON, durations."""

import re
import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click
import msgspec

from muster.cli.console.output import Exit, fail
from muster.common.contracts.limits import DEFAULT_PAGE, LARGEST_PAGE

_DURATION = re.compile(r"(\d+)\s*(s|m|min|h|d|w)")
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}


def labels_option[F: Callable[..., Any]](text: str) -> Callable[[F], F]:
    """`-l NAME=VALUE`, as often as wanted, passed as `labels`."""
    return click.option("-l", "--label", "labels", multiple=True, metavar="NAME=VALUE", callback=_labels, help=text)


def page_options[F: Callable[..., Any]](command: F) -> F:
    """`--limit` and `--cursor`, passed as they are."""
    many = click.IntRange(1, LARGEST_PAGE)
    limited = click.option(
        "--limit", type=many, metavar="N", default=DEFAULT_PAGE, show_default=True, help="How many at most."
    )
    later = "Continue after an earlier page (told on stderr)."
    return limited(click.option("--cursor", metavar="CURSOR", help=later)(command))


def _labels(_: click.Context, __: click.Parameter, words: Sequence[str]) -> dict[str, str]:
    return dict(pair(word, "a label") for word in words)


def pair(word: str, what: str) -> tuple[str, str]:
    """`NAME=VALUE` in its two parts."""
    name, found, value = word.partition("=")
    if not found or not name:
        raise click.UsageError(f"{what} is NAME=VALUE, not {word!r}")
    return name, value


def content(word: str, option: str) -> bytes:
    """The word itself, the file that `@FILE` names, or with `-` all of stdin."""
    if word == "-":
        return sys.stdin.buffer.read()
    if not word.startswith("@"):
        return word.encode()
    try:
        return Path(word[1:]).read_bytes()
    except OSError as error:
        fail(f"{option}: {word[1:]} cannot be read: {error.strerror}", Exit.USAGE)


def json_object(word: str, option: str) -> dict[str, Any]:
    """A JSON object, in the word or in a file."""
    try:
        return msgspec.json.decode(content(word, option), type=dict[str, Any])
    except msgspec.DecodeError as error:
        fail(f"{option} must be a JSON object: {error}", Exit.USAGE)


def moment(word: str, now: datetime) -> datetime:
    """`30d`, `12h`, `90min` from now, or a time as RFC 3339 writes it."""
    if found := _DURATION.fullmatch(word.strip()):
        return now + timedelta(seconds=int(found[1]) * _UNITS[found[2]])
    try:
        told = datetime.fromisoformat(word)
    except ValueError:
        told = None
    if told is None or told.tzinfo is None:
        fail(f"a time is 12h, 30d or 2026-12-31T00:00:00Z, not {word!r}", Exit.USAGE)
    return told
