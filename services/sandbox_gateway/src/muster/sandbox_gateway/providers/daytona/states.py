"""Translates the states of Daytona and of the uploaded programs to those of a provider."""

from datetime import datetime
from decimal import Decimal

from daytona import AsyncSandbox, SandboxState

from muster.common.contracts.packages import Resources
from muster.sandbox_gateway.provider_settings import DaytonaSettings
from muster.sandbox_gateway.providers.daytona.answers import ProcessAnswer
from muster.sandbox_gateway.providers.daytona.calls import SANDBOX
from muster.sandbox_gateway.providers.interface import FoundSandbox, ProcessState

NAME = "daytona"


def found_of(sandbox: AsyncSandbox, settings: DaytonaSettings) -> FoundSandbox:
    """Return a sandbox that Daytona has listed or shown, with its price by the prices of the settings."""
    created_at = datetime.fromisoformat(sandbox.created_at) if sandbox.created_at else None
    return FoundSandbox(
        sandbox.labels.get(SANDBOX, ""),
        created_at,
        sandbox.state == SandboxState.STARTED,
        _price(sandbox, settings),
    )


def _price(sandbox: AsyncSandbox, settings: DaytonaSettings) -> Decimal | None:
    """Return the US dollars of an hour by the sandbox's resources; None if the price of no resource is set."""
    parts = (
        (settings.daytona_usd_per_cpu_hour, sandbox.cpu),
        (settings.daytona_usd_per_memory_gib_hour, sandbox.memory),
        (settings.daytona_usd_per_disk_gib_hour, sandbox.disk),
    )
    known = [price * Decimal(str(amount)) for price, amount in parts if price is not None]
    return sum(known, Decimal(0)) if known else None


_HELD = ("memory_bytes", "cpu_s", "file_bytes", "open_files")
"""The limits that the uploaded program sets for a process. The snapshot of the sandbox decides about the others."""


def state_of(state: ProcessAnswer, limits: Resources | None = None) -> ProcessState:
    """Return the state of a process from the answer of the uploaded program, which was given these limits."""
    return ProcessState(
        running=state.running,
        pid=state.pid,
        exit_code=state.exit_code,
        error="the process was killed in its sandbox" if state.lost else state.error,
        isolation=NAME,
        limits=limits and Resources(**{name: getattr(limits, name) for name in _HELD}),
        limited_by=limits and NAME,
        timed_out=state.timed_out,
        seconds=state.seconds,
    )
