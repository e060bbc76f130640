"""Builds the OpenHands conversation of a task from the options. This module imports the SDK when it is loaded."""

import uuid
from collections.abc import Callable
from importlib import import_module
from typing import Any, override

from msgspec import UNSET

from muster.agent.task_run import TaskContext
from muster.agents.openhands.event_files import conversation_folder
from muster.agents.openhands.mcp_servers import McpServers, server_configs
from muster.agents.openhands.model_client import condenser_of
from muster.agents.openhands.options import Options, Security
from muster.agents.openhands.skills import agent_context
from openhands.sdk import LLM, Agent, LocalConversation, Tool
from openhands.sdk.event import Event
from openhands.sdk.security import (
    ConfirmRisky,
    EnsembleSecurityAnalyzer,
    LLMSecurityAnalyzer,
    PatternSecurityAnalyzer,
    PolicyRailSecurityAnalyzer,
    SecurityRisk,
)

MOST_ITERATIONS = 1_000_000
"""The SDK would end a run after 500 model calls. The limit `max_steps` of the task is counted by the gateway."""
_TOOL_PARAMETERS: dict[str, dict[str, Any]] = {"terminal": {"terminal_type": "subprocess"}}


class TaskConversation(LocalConversation):
    """A conversation that runs no program which the repository names by itself.

    The SDK loads the plugins of the workspace (`.agents/plugins`, `.openhands/plugins`) without being asked. Their
    hooks and MCP servers would run before the first request to the model.
    """

    @override
    def _ensure_plugins_loaded(self) -> None:
        self._plugins_loaded = True

    @override
    def _register_file_based_agents(self) -> None:
        """Register no agents, because the tool that calls them is not among the options."""

    def start_tools(self) -> None:
        """Start the tools and the MCP servers, which the SDK would do with the first message."""
        self._ensure_agent_ready()


def open_conversation(
    context: TaskContext,
    options: Options,
    llm: LLM,
    on_event: Callable[[Event], None],
    conversation_id: uuid.UUID,
    before_start: Callable[[LocalConversation], None],
) -> LocalConversation:
    """Return the conversation of a task with its tools started, from the last event on disk.

    `before_start` may change the state that was read from disk. Raises `McpServerFailed`.
    """
    for tool in options.tools:
        import_module(f"openhands.tools.{tool}")  # The module registers its tool under its own name.
    servers = McpServers(options.mcp_servers)
    conversation = TaskConversation(
        agent=Agent(
            llm=llm,
            tools=[Tool(name=name, params=_TOOL_PARAMETERS.get(name, {})) for name in dict.fromkeys(options.tools)],
            condenser=condenser_of(llm, options.condenser),
            agent_context=agent_context(options, context.workspace, context.state_dir / "instructions"),
            mcp_config=server_configs(options.mcp_servers, context.workspace),
        ),
        workspace=str(context.workspace),
        persistence_dir=str(conversation_folder(context.state_dir)),
        conversation_id=conversation_id,
        callbacks=[on_event],
        visualizer=None,
        max_iteration_per_run=MOST_ITERATIONS,
        stuck_detection=False,  # The guardian service detects stuck agents instead of the SDK.
        delete_on_close=False,
        mcp_tool_provider=servers,
    )
    if options.security is not UNSET:
        _refuse_risks(conversation, options.security)
    before_start(conversation)
    try:
        conversation.start_tools()
        servers.check()
    except BaseException:
        conversation.close()
        raise
    return conversation


def _refuse_risks(conversation: LocalConversation, security: Security) -> None:
    if security.analyzer == "patterns":
        patterns = EnsembleSecurityAnalyzer(analyzers=[PolicyRailSecurityAnalyzer(), PatternSecurityAnalyzer()])
        conversation.set_security_analyzer(patterns)
    else:
        conversation.set_security_analyzer(LLMSecurityAnalyzer())
    conversation.set_confirmation_policy(ConfirmRisky(threshold=SecurityRisk[security.refuse]))
