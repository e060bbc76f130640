"""The options of the OpenHands agent: the fields of the `config` of an agent, a task (`metadata.config`) or a package.

`agent.toml` contains the JSON Schema of `Options`, so the manager refuses a wrong value when an agent is registered or
a task is submitted. `python -m tests.support.openhands_schema` writes the schema into `agent.toml`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from muster.common.faults import InvalidMessage

Tool = Literal["terminal", "file_editor", "task_tracker", "glob", "grep"]
Risk = Literal["MEDIUM", "HIGH"]
Text = Annotated[str, msgspec.Meta(max_length=4_096)]


class Condenser(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When the older part of a conversation is replaced by a summary."""

    enabled: Annotated[
        bool, msgspec.Meta(description="Whether a conversation that becomes too long is summarized.")
    ] = True
    max_events: Annotated[
        int, msgspec.Meta(ge=20, le=10_000, description="Events of the conversation before it is summarized.")
    ] = 240
    max_tokens: (
        Annotated[
            int,
            msgspec.Meta(
                ge=1_000,
                le=10_000_000,
                description="Tokens of the conversation before it is summarized, if fewer than the model can read.",
            ),
        ]
        | msgspec.UnsetType
    ) = msgspec.UNSET
    keep_first: Annotated[
        int, msgspec.Meta(ge=1, le=8, description="First events that are never summarized, such as the task.")
    ] = 4


class McpServer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An MCP server, which the worker starts in the sandbox and reaches by its standard input and output."""

    command: Annotated[str, msgspec.Meta(min_length=1, max_length=4_096, description="The program to start.")]
    args: Annotated[list[Text], msgspec.Meta(max_length=100, description="Arguments of the program.")] = []
    env: Annotated[
        dict[str, Text],
        msgspec.Meta(max_length=64, description="Environment variables. They are stored and shown: no secrets."),
    ] = {}
    start_timeout_s: Annotated[
        float, msgspec.Meta(ge=1, le=300, description="Seconds until the server must have listed its tools.")
    ] = 60.0


class Security(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which tool calls are refused as risky. OpenHands would ask a person to confirm them, but no person waits here."""

    refuse: Annotated[Risk, msgspec.Meta(description="The lowest risk at which a tool call is refused.")] = "HIGH"
    analyzer: Annotated[
        Literal["patterns", "model"],
        msgspec.Meta(
            description="What estimates the risk: OpenHands' patterns of dangerous commands, or the model itself."
        ),
    ] = "patterns"


ServerName = Annotated[str, msgspec.Meta(pattern="^[a-z0-9][a-z0-9-]{0,31}$")]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The options of one conversation. Every option has a default."""

    max_iterations: (
        Annotated[
            int,
            msgspec.Meta(
                ge=1,
                le=1_000_000,
                description="Model calls of the agent in one attempt. Without a value, only `max_steps` of the task "
                "limits them.",
            ),
        ]
        | msgspec.UnsetType
    ) = msgspec.UNSET
    tools: Annotated[
        tuple[Tool, ...],
        msgspec.Meta(
            min_length=1,
            max_length=16,
            description="Tools of OpenHands that the agent has, beside `finish` and `think`.",
        ),
    ] = ("terminal", "file_editor", "task_tracker")
    repository_skills: Annotated[
        bool, msgspec.Meta(description="Whether AGENTS.md and the skills of the repository are read.")
    ] = True
    disabled_skills: Annotated[
        list[Annotated[str, msgspec.Meta(max_length=256)]],
        msgspec.Meta(max_length=100, description="Names of skills of the repository that are left out."),
    ] = []
    system_message_suffix: Annotated[
        str, msgspec.Meta(max_length=16_384, description="Text at the end of the agent's system prompt.")
    ] = ""
    condenser: Condenser = Condenser()
    mcp_servers: Annotated[
        dict[ServerName, McpServer],
        msgspec.Meta(max_length=16, description="MCP servers by name. The agent has the tools of all of them."),
    ] = {}
    security: Security | msgspec.UnsetType = msgspec.UNSET


def options_of(defaults: Mapping[str, Any], config: Mapping[str, Any]) -> Options:
    """Return the options of a conversation: the values of `config`, and for missing fields those of `defaults`.

    Raises `InvalidMessage` for a value that the options do not allow.
    """
    try:
        return msgspec.convert({**defaults, **config}, Options)
    except msgspec.ValidationError as error:
        raise InvalidMessage(
            f"the config of the OpenHands agent cannot be used: {error}; correct it in the agent's config, in the "
            "task's metadata.config or in the package"
        ) from None
