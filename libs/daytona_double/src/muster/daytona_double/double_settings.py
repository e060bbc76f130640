"""How a double is set up."""

import secrets
import sys
from dataclasses import dataclass, field
from pathlib import Path

from muster.daytona_double.clock import DoubleClock, system_clock


def interpreter_path() -> str:
    """Return a search path that begins with the directory of this interpreter.

    `python3` in a sandbox is then the interpreter of this environment, with the packages that are installed in it.
    """
    return f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"


def new_key() -> str:
    """Return an API key that nothing else uses."""
    return f"dtn_{secrets.token_hex(16)}"


@dataclass(frozen=True, kw_only=True)
class DoubleSettings:
    """How a double is set up. Durations are in seconds, except where a name says minutes."""

    root: Path
    """The directory of the sandboxes' directories. It is created, and emptied at the start and at the end."""
    api_key: str = field(default_factory=new_key)
    host: str = "127.0.0.1"
    port: int = 0
    """0 means a free port."""
    path: str = field(default_factory=interpreter_path)
    """`PATH` of the commands in sandboxes."""
    snapshots: tuple[str, ...] = ("daytona-small", "daytona-medium", "daytona-large")
    """Names of the snapshots that exist from the start. The first is the one for a create that names none."""
    change_s: float = 0.02
    """How long a change of a sandbox's state takes."""
    list_lag_s: float = 0.0
    """How old the answer to a list is; a real list is eventually consistent."""
    start_within_s: float = 30.0
    """How long the answers to create and start wait for the state `started`."""
    max_cpu: int = 250
    """The quota: CPUs of all sandboxes that are not stopped or archived."""
    control: bool = False
    """Whether `/_double/…` lets other processes set faults and read counters."""
    events: bool = True
    """Whether the event socket exists. Without it the SDK asks for a state once a second."""
    clock: DoubleClock = system_clock
    """The clock of auto-stop, auto-archive, auto-delete and time to live."""
    seed: int = 0
    """The seed of the faults' random numbers."""
