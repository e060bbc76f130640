"""The main function of every agent process. Reads the handoff (the file with the agent's task and credentials).

The handoff decides whether the agent runs in process mode or in a sandbox.
"""

import asyncio
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from muster.agent.base import AgentFactory
from muster.agent.exit_codes import ExitCode
from muster.agent.log_output import log_to_stderr
from muster.agent.readiness import take_ready_socket
from muster.common.contract import decode
from muster.common.contracts.agent_process import ProcessHandoff
from muster.common.contracts.worker_api import Handoff
from muster.common.faults import InvalidMessage

logger = logging.getLogger(__name__)


class HandoffKind(msgspec.Struct):
    """The field that only a `ProcessHandoff` has. The field shows which of the two kinds of handoff a file contains."""

    nats_url: str | None = None


def run_agent(factory: AgentFactory, argv: Sequence[str] | None = None) -> int:
    """Run an agent package with the arguments `--handoff PATH`. Return the exit code of its process."""
    log_to_stderr()
    take_ready_socket()
    try:
        handoff = _read_handoff(sys.argv[1:] if argv is None else argv)
    except (OSError, InvalidMessage) as error:
        logger.error("agent handoff could not be read", extra={"fields": {"why": str(error)}})  # noqa: TRY400 - a traceback adds nothing to the reason
        return ExitCode.BAD_HANDOFF
    code = asyncio.run(_run(handoff, factory))
    logger.info("agent process ended", extra={"fields": {"exit_code": int(code), "meaning": code.name.lower()}})
    return code


async def _run(handoff: Handoff | ProcessHandoff, factory: AgentFactory) -> ExitCode:
    """Run the agent in the mode of its handoff.

    Each mode imports only its own modules, so that the process starts fast and needs little memory.
    """
    if isinstance(handoff, ProcessHandoff):
        from muster.agent.process_agent import run_process_agent

        return await run_process_agent(handoff, factory)
    from muster.agent.worker import run_worker

    return await run_worker(handoff, factory)


def _read_handoff(argv: Sequence[str]) -> Handoff | ProcessHandoff:
    """Read and delete the handoff before any other code runs, because its credentials must not stay on disk."""
    match argv:
        case ["--handoff", path]:
            file = Path(path)
            body = file.read_bytes()
            file.unlink()
            return decode(body, ProcessHandoff if decode(body, HandoffKind).nats_url is not None else Handoff)
        case _:
            raise InvalidMessage("wrong arguments; start the agent with exactly: --handoff PATH")
