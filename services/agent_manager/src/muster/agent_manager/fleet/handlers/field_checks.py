"""Checks of the fields of agents that types do not express."""

import re
from typing import Any

import msgspec

from muster.common.contract import encode, token
from muster.common.contracts.agent_registry import FindAgent, ListAgents
from muster.common.faults import InvalidMessage
from muster.common.identity.authority import TAKEN
from muster.common.storable import refuse_unstorable, stored_bytes

LONGEST_LABELS, LONGEST_CONFIG = 8 << 10, 16 << 10
"""In bytes of JSON: a page of agents must fit into one message."""
MOST_CAPABILITIES = 64

_NAME = re.compile(r"[^\s/](?:[^\r\n\t/]{0,62}[^\s/])?")


def agent_token(agent_id: str) -> str:
    """Return the id if an agent may have it. Raises `InvalidMessage`."""
    if token(agent_id, "agent_id") in TAKEN:
        raise InvalidMessage(
            f"agent_id may not be {agent_id!r}: that is the name of something else; choose another", field="$.agent_id"
        )
    return agent_id


def refuse_unfit_name(name: str) -> None:
    """Raise `InvalidMessage` unless people can read, type and find the name."""
    if not (_NAME.fullmatch(name) and name.isprintable()):
        raise InvalidMessage(
            "name must be 1 to 64 printable characters, without / and without space at its ends", field="$.name"
        )


def refuse_unfit_labels(labels: dict[str, str]) -> None:
    """Raise `InvalidMessage` if the labels are too long together."""
    if len(encode(labels)) > LONGEST_LABELS:
        raise InvalidMessage(f"labels are longer than {LONGEST_LABELS} bytes together", field="$.labels")


def refuse_large_config(config: dict[str, Any]) -> None:
    """Raise `InvalidMessage` if the config cannot be stored."""
    refuse_unstorable(config, "$.config")
    if stored_bytes(config) > LONGEST_CONFIG:
        raise InvalidMessage(f"config is longer than {LONGEST_CONFIG} bytes", field="$.config")


def refuse_unfit_wish(wanted: FindAgent | ListAgents) -> None:
    """Raise `InvalidMessage` for a filter that no agent can ever match."""
    refuse_unfit_labels(wanted.labels)
    if isinstance(wanted, FindAgent) and len(wanted.capabilities) > MOST_CAPABILITIES:
        raise InvalidMessage(f"capabilities may be {MOST_CAPABILITIES}", field="$.capabilities")
    for name in wanted.__struct_fields__:
        refuse_unstorable(msgspec.to_builtins(getattr(wanted, name)), f"$.{name}")
