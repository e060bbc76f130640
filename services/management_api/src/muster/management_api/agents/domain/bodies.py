"""Bodies of requests about agents. An unknown field is refused, and every value has its bounds."""

from typing import Annotated, Any

import msgspec

from muster.common.contracts.agent_spec import AgentSpec, Capabilities, Phase
from muster.common.contracts.fields import Labels, Name, Said, Title, Word
from muster.common.contracts.packages import Mode
from muster.management_api.http.bodies import RequestBody


class NewAgent(RequestBody, AgentSpec):
    """`RegisterAgent` without its id, which the API mints."""

    name: Title
    package: Name


class AgentChange(RequestBody):
    """What an agent is to be from now on; what is absent stays as it is."""

    name: Title | None = None
    config: dict[str, Any] | None = None
    labels: Labels | None = None
    phase_id: Phase | None = None
    capabilities: Capabilities | None = None


class AgentSearch(RequestBody):
    """What an agent is wanted for; `available`: only one that could take a task now."""

    capabilities: Annotated[list[Word], msgspec.Meta(max_length=64)] = []
    package: Name | None = None
    mode: Mode | None = None
    labels: Labels = {}
    available: bool = False


class AgentText(RequestBody):
    """A text for a running agent."""

    text: Said
