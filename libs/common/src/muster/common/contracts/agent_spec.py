"""The fields of an agent's registration, declared once. The messages about agents inherit `AgentSpec`."""

from typing import Annotated, Any

import msgspec

from muster.common.contract import Message
from muster.common.contracts.fields import Labels, Word, storable
from muster.common.contracts.packages import Mode

AgentName = Annotated[str, storable(64)]
Phase = Annotated[str, storable(255)]
Capabilities = Annotated[list[Word], msgspec.Meta(max_length=64)]


class AgentSpec(Message):
    """The fields of an agent that are given at its registration."""

    name: AgentName
    mode: Mode = "process"
    config: dict[str, Any] = {}
    labels: Labels = {}
    phase_id: Phase | None = None
    """The phase of the user's own process that the agent works in."""
    capabilities: Capabilities = []
    """Capabilities of the agent in addition to those of its package."""
