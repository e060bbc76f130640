"""How a launch of an agent in process mode ended, in numbers and in words for people."""

from muster.agent_manager.fleet.domain.lifecycle import AgentProcess
from muster.common.contracts.agent_messages import MessageError

_NAMED_SIGNAL = 128


def exit_code(process: AgentProcess | None) -> int | None:
    """Return the exit code of a process as a shell reports it: 128 plus the signal number after a signal."""
    if process is None or process.exit_code is not None:
        return process.exit_code if process else None
    return None if process.signal_number is None else _NAMED_SIGNAL + process.signal_number


def how(process: AgentProcess | None, *, asked: bool) -> str:
    """Return how a launch ended, as a text for people."""
    if process is None:
        return "the shim has no record of its process" if asked else "it was stopped before its process started"
    if process.error and process.exit_code is None and process.signal is None:
        return process.error
    if process.signal is not None:
        return f"ended by {process.signal}"
    if process.interrupted and not process.failed:
        return "stopped because the shim stopped or no manager renewed its lease"
    return f"exited with {process.exit_code}" + (f": {process.error}" if process.error else "")


def lost(name: str, exit_code: int | None, signal: str | None, *, stopped: bool) -> MessageError:
    """Return why a message has no answer: the agent's process ended, or was stopped, while it had the message."""
    end = signal or ("no exit code" if exit_code is None else f"exit {exit_code}")
    did = "was stopped" if stopped else "ended" if exit_code == 0 else "died"
    text = f"agent {name} {did} ({end}) while it had the message; it may have acted on it"
    return MessageError(code="agent_ended", detail=text)
