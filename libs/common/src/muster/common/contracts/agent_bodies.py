"""The bodies of HTTP requests about agents. An unknown field is refused, and every value is limited."""

from typing import Annotated, Any

import msgspec

from muster.common.contracts.agent_spec import AgentSpec, Capabilities, Phase
from muster.common.contracts.fields import Labels, Name, Said, Title, Word
from muster.common.contracts.packages import Mode
from muster.common.contracts.request_body import RequestBody


class NewAgent(RequestBody, AgentSpec):
    """The body of the request that registers an agent. The API creates the agent's id."""

    name: Title
    package: Name


class AgentChange(RequestBody):
    """The body of the request that changes an agent. A missing field keeps its value."""

    name: Title | None = None
    config: dict[str, Any] | None = None
    labels: Labels | None = None
    phase_id: Phase | None = None
    capabilities: Capabilities | None = None


class AgentSearch(RequestBody):
    """The properties that an agent must have to be chosen. `available` accepts only agents that can take a task now."""

    capabilities: Annotated[list[Word], msgspec.Meta(max_length=64)] = []
    package: Name | None = None
    mode: Mode | None = None
    labels: Labels = {}
    available: bool = False


class AgentText(RequestBody):
    """The body of the request that sends a text to a running agent."""

    text: Said
