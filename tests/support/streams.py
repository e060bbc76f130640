"""Creates streams with the settings of the service that owns them, because tests share the NATS servers."""

from muster.agent_manager.streams import AGENT_LOGS, AGENTS, TASKS
from muster.common.bus.audit_trail import AUDIT
from muster.common.bus.connection import Bus
from muster.common.bus.streams import DEAD_LETTERS, StreamSpec, ensure_stream
from muster.guardian.journal.store import GUARDIAN
from muster.sandbox_gateway.streams import specs

GATEWAY = tuple(specs(-1))
STREAMS: tuple[StreamSpec, ...] = (TASKS, AGENTS, AGENT_LOGS, GUARDIAN, AUDIT, DEAD_LETTERS, *GATEWAY)


async def ensure_streams(bus: Bus, *names: str) -> None:
    """Create the streams with these names; without names, create the gateway's streams."""
    wanted = [spec for spec in STREAMS if spec.name in names] if names else GATEWAY
    for spec in wanted:
        await ensure_stream(bus, spec)
