"""Checks fields of agents where types cannot express the rule: names, labels, configs and filters."""

import re
from typing import Any

import msgspec

from muster.common.agent_credentials.authority import TAKEN
from muster.common.contract import encode, token
from muster.common.contracts.agent_registry import FindAgent, ListAgents
from muster.common.faults import InvalidMessage
from muster.common.storable_values import refuse_unstorable, stored_bytes

LONGEST_LABELS, LONGEST_CONFIG = 8 << 10, 16 << 10
"""The largest sizes in bytes of JSON. They exist because a page of agents must fit into one message."""
MOST_CAPABILITIES = 64

_NAME = re.compile(r"[^\s/](?:[^\r\n\t/]{0,62}[^\s/])?")


def agent_token(agent_id: str) -> str:
    """Return the id if an agent may have this id. Raises `InvalidMessage` if it is malformed or reserved."""
    if token(agent_id, "agent_id") in TAKEN:
        raise InvalidMessage(f"agent_id {agent_id!r} is a reserved word; choose another", field="$.agent_id")
    return agent_id


def refuse_unfit_name(name: str) -> None:
    """Raise `InvalidMessage` unless a name has 1 to 64 printable characters, no `/` and no spaces at its ends."""
    if not (_NAME.fullmatch(name) and name.isprintable()):
        raise InvalidMessage(
            "name must be 1 to 64 printable characters, without / and without space at its ends", field="$.name"
        )


def refuse_unfit_labels(labels: dict[str, str]) -> None:
    """Raise `InvalidMessage` if all labels of an agent together are too long."""
    if len(encode(labels)) > LONGEST_LABELS:
        raise InvalidMessage(f"all labels together exceed {LONGEST_LABELS} bytes; shorten them", field="$.labels")


def refuse_large_config(config: dict[str, Any]) -> None:
    """Raise `InvalidMessage` if the config of an agent cannot be stored or is too long."""
    refuse_unstorable(config, "$.config")
    if stored_bytes(config) > LONGEST_CONFIG:
        raise InvalidMessage(f"config is longer than {LONGEST_CONFIG} bytes; shorten it", field="$.config")


def refuse_unfit_wish(wanted: FindAgent | ListAgents) -> None:
    """Raise `InvalidMessage` for a filter that is too long or that no agent can match."""
    refuse_unfit_labels(wanted.labels)
    if isinstance(wanted, FindAgent) and len(wanted.capabilities) > MOST_CAPABILITIES:
        raise InvalidMessage(f"capabilities may have at most {MOST_CAPABILITIES} entries", field="$.capabilities")
    for name in wanted.__struct_fields__:
        refuse_unstorable(msgspec.to_builtins(getattr(wanted, name)), f"$.{name}")
