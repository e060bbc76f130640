"""Where every agent's process begins: the handoff says in which mode."""

import asyncio
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from muster.agent.base import AgentFactory
from muster.agent.exits import ExitCode
from muster.agent.output import log_to_stderr
from muster.common.contract import decode
from muster.common.contracts.agent_wire import ProcessHandoff
from muster.common.contracts.doors import Handoff
from muster.common.faults import InvalidMessage

logger = logging.getLogger(__name__)


class Which(msgspec.Struct):
    """What tells the two handoffs apart."""

    nats_url: str | None = None


def run_agent(factory: AgentFactory, argv: Sequence[str] | None = None) -> int:
    """`__main__` of every agent package: `--handoff PATH` in, exit code out (`exits.ExitCode`)."""
    log_to_stderr()
    try:
        handoff = _taken(sys.argv[1:] if argv is None else argv)
    except (OSError, InvalidMessage) as error:
        logger.error("no usable handoff", extra={"fields": {"why": str(error)}})  # noqa: TRY400 - the reason is all
        return ExitCode.BAD_HANDOFF
    code = asyncio.run(_life(handoff, factory))
    logger.info("ends", extra={"fields": {"exit_code": int(code), "meaning": code.name.lower()}})
    return code


async def _life(handoff: Handoff | ProcessHandoff, factory: AgentFactory) -> ExitCode:
    """Each mode imports only what it needs."""
    if isinstance(handoff, ProcessHandoff):
        from muster.agent.process_agent import run_process_agent

        return await run_process_agent(handoff, factory)
    from muster.agent.worker import work

    return await work(handoff, factory)


def _taken(argv: Sequence[str]) -> Handoff | ProcessHandoff:
    """Reads the handoff and unlinks it before anything else runs: what it holds must not stay on a disk."""
    match argv:
        case ["--handoff", path]:
            file = Path(path)
            body = file.read_bytes()
            file.unlink()
            return decode(body, ProcessHandoff if decode(body, Which).nats_url is not None else Handoff)
        case _:
            raise InvalidMessage("usage: --handoff PATH")
