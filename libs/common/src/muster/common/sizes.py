"""Sizes in bytes as text."""

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")
_STEP = 1024


def as_size(size: int) -> str:
    """Return a size with the largest unit in which it is at least 1, such as `4 GiB` or `1.5 MiB`."""
    value, unit = float(size), 0
    while value >= _STEP and unit < len(_UNITS) - 1:
        value, unit = value / _STEP, unit + 1
    return f"{round(value, 1):g} {_UNITS[unit]}"
