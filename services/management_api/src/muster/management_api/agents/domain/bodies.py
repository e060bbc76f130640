"""Bodies of requests about agents. An unknown field is refused, and every value has its bounds."""

from typing import Annotated, Any

import msgspec

from muster.common.contracts.agent_spec import AgentSpec, Capabilities, Phase
from muster.common.contracts.fields import Labels, Name, Said, Title, Word
from muster.common.contracts.packages import Mode
from muster.management_api.http.bodies import RequestBody


class NewAgent(RequestBody, AgentSpec):
    """The body that registers an agent; the API creates the id."""

    name: Title
    package: Name


class AgentChange(RequestBody):
    """A change of an agent; an absent field keeps its value."""

    name: Title | None = None
    config: dict[str, Any] | None = None
    labels: Labels | None = None
    phase_id: Phase | None = None
    capabilities: Capabilities | None = None


class AgentSearch(RequestBody):
    """What an agent must have to be chosen; `available`: only an agent that could take a task now."""

    capabilities: Annotated[list[Word], msgspec.Meta(max_length=64)] = []
    package: Name | None = None
    mode: Mode | None = None
    labels: Labels = {}
    available: bool = False


class AgentText(RequestBody):
    """A text for a running agent."""

    text: Said
