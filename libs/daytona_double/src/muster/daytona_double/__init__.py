"""A double of Daytona's HTTP APIs, which runs commands for real in local directories and fails on request.

`async with serving(root) as double:` serves one; `double.url` and `double.key` are for the SDK's configuration.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from muster.daytona_double.clock import ManualClock
from muster.daytona_double.double_settings import DoubleSettings
from muster.daytona_double.faults import Faults, InjectedFault
from muster.daytona_double.sandbox_record import DoubleSandboxView
from muster.daytona_double.server import DaytonaDouble

__all__ = ["DaytonaDouble", "DoubleSandboxView", "DoubleSettings", "Faults", "InjectedFault", "ManualClock", "serving"]


def serving(root: Path, **options: Any) -> DaytonaDouble:  # noqa: ANN401 - the fields of DoubleSettings, which checks them
    """Return a double for `with` or `async with`. `options` are the fields of `DoubleSettings`.

    The directory `root` belongs to the double, which empties it at the start and deletes it at the end.
    """
    return DaytonaDouble(replace(DoubleSettings(root=root.resolve()), **options))
