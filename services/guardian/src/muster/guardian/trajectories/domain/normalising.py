"""Normalises the output of commands, so that two runs of the same command give equal text.

Parts that differ between runs (times, durations, ids, temporary names, colours) are replaced by placeholders.
"""

import re
from collections.abc import Sequence

LONGEST = 8_192
"""The largest number of characters that is normalised. Of a longer text only both ends are used, to save time."""

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_VARYING: Sequence[tuple[re.Pattern[str], str]] = (
    (re.compile(r"(/(?:var/|private/)?tmp|/dev/shm|/var/folders)/[^/\s'\":]+"), r"\1/<tmp>"),
    (re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?"), "<time>"),
    (re.compile(r"\b\d{1,2}:\d\d(?::\d\d(?:[.,]\d+)?)?\b"), "<time>"),
    (
        re.compile(r"\b\d+(?:\.\d+)?\s?(?:ns|µs|us|ms|s|secs?|seconds?|m|mins?|minutes?|h|hours?)\b"),
        "<duration>",
    ),
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", re.IGNORECASE), "<hex>"),
    (re.compile(r"\b0x[0-9a-f]+\b", re.IGNORECASE), "<hex>"),
    (re.compile(r"\b(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{7,64}\b", re.IGNORECASE), "<hex>"),
    (re.compile(r"\b\d{9,}\b"), "<number>"),
)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_SPACE = re.compile(r"\s+")


def steady(text: str) -> str:
    """Return the text without colour codes, and with placeholders for varying parts. Plain numbers are kept."""
    if len(text) > LONGEST:
        text = text[: LONGEST // 2] + " … " + text[-LONGEST // 2 :]
    text = _ANSI.sub("", text)
    for pattern, placeholder in _VARYING:
        text = pattern.sub(placeholder, text)
    return _SPACE.sub(" ", text).strip()


def without_numbers(steady_text: str) -> str:
    """Return a normalised text in which every number is replaced by `#`."""
    return _NUMBER.sub("#", steady_text)
