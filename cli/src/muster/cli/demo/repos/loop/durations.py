"""Parses durations such as `1h30m`."""

import re

_SECONDS = {"s": 1, "m": 60, "h": 3600}


def seconds(text: str) -> int:
    """Return the duration in seconds: `1h30m` is 5400."""
    parts = re.findall(r"(\d)([smh])", text)
    if not parts:
        raise ValueError(f"not a duration: {text!r}")
    return sum(int(number) * _SECONDS[unit] for number, unit in parts)
