"""Translates the states of Daytona and of the uploaded programs to those of a provider."""

from datetime import datetime

from daytona import AsyncSandbox, SandboxState

from muster.sandbox_gateway.providers.daytona.answers import ProcessAnswer
from muster.sandbox_gateway.providers.daytona.calls import SANDBOX
from muster.sandbox_gateway.providers.interface import FoundSandbox, ProcessState

NAME = "daytona"


def found_of(sandbox: AsyncSandbox) -> FoundSandbox:
    """Return a sandbox that Daytona has listed or shown."""
    created_at = datetime.fromisoformat(sandbox.created_at) if sandbox.created_at else None
    return FoundSandbox(sandbox.labels.get(SANDBOX, ""), created_at, sandbox.state == SandboxState.STARTED)


def state_of(state: ProcessAnswer) -> ProcessState:
    """Return the state of a process from the answer of the uploaded program."""
    return ProcessState(
        running=state.running,
        pid=state.pid,
        exit_code=state.exit_code,
        error="the process was killed in its sandbox" if state.lost else state.error,
        isolation=NAME,
        timed_out=state.timed_out,
        seconds=state.seconds,
    )
