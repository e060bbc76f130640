"""Starts the MCP servers of the options in the sandbox. A server that does not start ends the run with its name.

OpenHands would continue without the tools of a server that does not start, and the agent would work without them
unnoticed.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muster.agents.openhands.options import McpServer

if TYPE_CHECKING:
    from openhands.sdk.mcp.client import MCPClient
    from openhands.sdk.mcp.config import MCPServer as ServerConfig

_PASSED_ON = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""Variables of the sandbox's network, which a server gets as well. The MCP client passes on only a few variables."""


class McpServerFailed(Exception):
    """An MCP server of the options did not start or offers no tools."""


def server_configs(servers: Mapping[str, McpServer], workspace: Path) -> "dict[str, ServerConfig]":
    """Return the servers as OpenHands configures them. Each one runs in the workspace."""
    from openhands.sdk.mcp.config import coerce_mcp_config

    network = {name: value for name, value in os.environ.items() if name.upper() in _PASSED_ON}
    configs = coerce_mcp_config(
        {
            name: {
                "transport": "stdio",
                "command": server.command,
                "args": server.args,
                "env": network | server.env,
                "cwd": str(workspace),
            }
            for name, server in servers.items()
        }
    )
    # The values are not templates: `${NAME}` stays as it is.
    return {name: config.as_literal() for name, config in configs.items()}


class McpServers:
    """OpenHands' source of MCP tools, with a check that every server has started. `failure` says which has not."""

    def __init__(self, servers: Mapping[str, McpServer]) -> None:
        self._servers = servers
        self._failure: McpServerFailed | None = None

    def check(self) -> None:
        """Raise `McpServerFailed` if a server did not start. OpenHands itself ignores the error."""
        if self._failure:
            raise self._failure

    def create_tools(
        self,
        mcp_config: "dict[str, ServerConfig]",
        timeout: float = 30.0,
        *,
        on_tools_changed: Callable[[Any], None] | None = None,
        on_tools_reconciled: Callable[[Any, Any], None] | None = None,
    ) -> "MCPClient":
        """Start the servers and return the client with their tools. Called by OpenHands; raises `McpServerFailed`."""
        from openhands.sdk.mcp.utils import create_mcp_tools

        del timeout  # The SDK's own limit. The options set one for each server.
        deadline_s = max(server.start_timeout_s for server in self._servers.values())
        try:
            client = create_mcp_tools(
                mcp_config, deadline_s, on_tools_changed=on_tools_changed, on_tools_reconciled=on_tools_reconciled
            )
        except Exception as error:
            self._failure = _failed(self._servers, str(error).strip().splitlines()[0] if str(error) else repr(error))
            raise self._failure from error
        if silent := self._without_tools([tool.name for tool in client.tools]):
            client.sync_close()
            self._failure = _failed(silent, "it did not start, or it has no tools")
            raise self._failure
        return client

    def _without_tools(self, tools: list[str]) -> dict[str, McpServer]:
        if len(self._servers) == 1:  # The names of its tools have no prefix.
            return {} if tools else dict(self._servers)
        # The name of a server contains no `_`, so the prefix is unambiguous.
        return {
            name: server
            for name, server in self._servers.items()
            if not any(tool.startswith(f"{name}_") for tool in tools)
        }


def _failed(servers: Mapping[str, McpServer], why: str) -> McpServerFailed:
    told = ", ".join(f"{name} ({server.command})" for name, server in servers.items())
    return McpServerFailed(
        f"the MCP server {told} cannot be used: {why}; check its command in mcp_servers of the config, and that the "
        "sandbox contains the program"
    )
