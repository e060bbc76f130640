"""The Python client of Muster's management API: `Muster`, and `AsyncMuster` for asyncio.

Each name is imported at its first use, so that a program that needs only the errors does not load the HTTP client.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from muster.client._async.client import AsyncMuster
    from muster.client._sync.client import Muster
    from muster.client.errors import (
        ApiCallError,
        ApiStatusError,
        ApiTimeoutError,
        ApiUnreachableError,
        ClientSettingsError,
        UnexpectedReplyError,
    )
    from muster.client.feed_items import NOW, FeedItem
    from muster.client.retries import AFTER_CUTS_ONLY, Retries
    from muster.common.contracts.access_bodies import NewKey, NewUser, UserChange
    from muster.common.contracts.agent_bodies import AgentChange, AgentSearch, NewAgent
    from muster.common.contracts.task_bodies import NewRepo, NewTask

__all__ = [
    "AFTER_CUTS_ONLY",
    "NOW",
    "AgentChange",
    "AgentSearch",
    "ApiCallError",
    "ApiStatusError",
    "ApiTimeoutError",
    "ApiUnreachableError",
    "AsyncMuster",
    "ClientSettingsError",
    "FeedItem",
    "Muster",
    "NewAgent",
    "NewKey",
    "NewRepo",
    "NewTask",
    "NewUser",
    "Retries",
    "UnexpectedReplyError",
    "UserChange",
]

_MODULES = {
    "muster.client._async.client": ["AsyncMuster"],
    "muster.client._sync.client": ["Muster"],
    "muster.client.feed_items": ["NOW", "FeedItem"],
    "muster.client.retries": ["AFTER_CUTS_ONLY", "Retries"],
    "muster.common.contracts.access_bodies": ["NewKey", "NewUser", "UserChange"],
    "muster.common.contracts.agent_bodies": ["AgentChange", "AgentSearch", "NewAgent"],
    "muster.common.contracts.task_bodies": ["NewRepo", "NewTask"],
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    """Import a public name of this package at its first use (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF.get(name, "muster.client.errors")), name)
