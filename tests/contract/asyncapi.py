"""Generates `docs/asyncapi.json`, the AsyncAPI 3.0 document of all messages: `python -m tests.contract.asyncapi`.

All content is generated: messages from the contract classes, examples from the golden messages, and senders, receivers
and streams from the table of roles and the stream settings (`parties.py`).
"""

import inspect
from pathlib import Path
from typing import Any, cast

import msgspec

from muster.common.bus.connection import FaultBody
from muster.common.bus.service import VERSION
from muster.common.bus.streams import when_stored
from muster.common.contract import Command, Message, reply_type, wildcard
from muster.common.contracts.agent_logs import AgentOutput
from muster.common.contracts.guardian import GuardianRecord
from muster.common.contracts.sandbox_log import Frame
from tests.contract.parties import is_command, kept_in, may_hear, may_publish, may_read, people, subjects
from tests.support.house import ROOT

Json = dict[str, Any]

WRITTEN = ROOT / "docs/asyncapi.json"
GOLDEN = Path(__file__).parent / "wire"
APPENDED = {Frame, GuardianRecord, AgentOutput}
"""By compare-and-set: their place in the log is all the envelope they need."""
BINDING = {"bindingVersion": "0.1.0"}
SCHEMAS = "#/components/schemas/{name}"
PLACES = {
    "agent_id": "The agent's id, which is never `manager`, `gateway`, `status` or `metrics`.",
    "kind": "The kind of the event, equal to the field `kind` of the message.",
    "partition": "Two digits, `00` to `15`: the crc32 of the sandbox's id modulo 16.",
    "sandbox_id": "The sandbox's id.",
    "task_id": "The task's id.",
    "request_id": "The model call's id.",
    "service": "The service that performed the action.",
    "action": "The name of the action.",
    "stream": "The stream whose message could not be handled.",
}
ABOUT = """Every message between Muster's services, and between them and their agents.

Message bodies are JSON. Exactly one service answers a command, with a reply or, under the header \
`Nats-Service-Error`, with a fault. An event gets no answer. A stored event can be read again from its stream. The server \
also announces each stored event, without its body, on `stored.<subject>`; a reader that subscribes there is woken. \
Services answer `$SRV.PING`, `$SRV.INFO` and `$SRV.STATS`. The server enforces the permissions to publish and to subscribe."""


def document() -> Json:
    """Return the complete document."""
    contracts = subjects()
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Muster", "version": VERSION, "description": ABOUT, "license": {"name": "Apache-2.0"}},
        "defaultContentType": "application/json",
        "servers": {"nats": _server()},
        "channels": {"replies": _replies(contracts), **{c.__name__: _channel(s, c) for s, c in contracts.items()}},
        "operations": dict(one for subject, contract in contracts.items() for one in _operations(subject, contract)),
        "components": {
            "messages": {contract.__name__: _message(contract) for contract in contracts.values()}
            | {name: _answer(name) for name in sorted(_replied(contracts))}
            | {"Fault": _fault()},
            "schemas": _schemas(contracts),
            "securitySchemes": {
                "credentials": {
                    "type": "asymmetricEncryption",
                    "description": "A NATS creds file: a JWT that names its role, and the key that proves it.",
                }
            },
        },
    }


def _server() -> Json:
    return {
        "host": "localhost:4222",
        "protocol": "nats",
        "description": "The address of `muster up`.",
        "security": [{"$ref": "#/components/securitySchemes/credentials"}],
    }


def _channel(subject: str, contract: type[Message]) -> Json:
    """Return the channel of one subject. `x-muster` names senders, receivers and streams."""
    stored = kept_in(subject)
    says, hears = may_publish(subject), may_hear(subject)
    parties: Json = (
        {"asked_by": [role for role in says if role not in hears], "answered_by": hears}
        if is_command(contract)
        else {"told_by": says, "heard_by": [role for role in hears if role not in says]}
    )
    parties["open_to"] = people(subject, say=is_command(contract))
    if stored:
        parties["stored_in"] = stored if len(stored) == 1 else [f"{stored[0]} to {stored[-1]}"]
        parties["read_by"] = sorted({role for stream in stored for role in may_read(stream)})
        parties["wakes_on"] = when_stored(wildcard(subject))
    channel: Json = {
        "address": subject,
        "description": _said(contract),
        "messages": {contract.__name__: {"$ref": f"#/components/messages/{contract.__name__}"}},
        "x-muster": parties,
    }
    if places := {part[1:-1] for part in subject.split(".") if part.startswith("{")}:
        channel["parameters"] = {place: {"description": PLACES[place]} for place in sorted(places)}
    return channel


def _operations(subject: str, contract: type[Message]) -> list[tuple[str, Json]]:
    """Return a command's operation for its responder, or an event's operation for each publisher."""
    name = contract.__name__
    about: Json = {
        "channel": {"$ref": f"#/channels/{name}"},
        "summary": _said(contract).partition("\n")[0],
        "messages": [{"$ref": f"#/channels/{name}/messages/{name}"}],
    }
    if not is_command(contract):
        return [(f"{role}.tells.{name}", {"action": "send", **about}) for role in may_publish(subject)]
    about["reply"] = {
        "address": {"description": "The inbox that the request names.", "location": "$message.header#/reply"},
        "channel": {"$ref": "#/channels/replies"},
        "messages": [{"$ref": f"#/channels/replies/messages/{one}"} for one in (_reply(contract).__name__, "Fault")],
    }
    return [
        (f"{role}.answers.{name}", {"action": "receive", **about, "bindings": {"nats": {"queue": role, **BINDING}}})
        for role in may_hear(subject)
    ]


def _message(contract: type[Message]) -> Json:
    name = contract.__name__
    headers = {"$ref": SCHEMAS.format(name="AppendHeaders" if contract in APPENDED else "CloudEventHeaders")}
    return {**_answer(name), "summary": _said(contract).partition("\n")[0], "headers": headers}


def _answer(name: str) -> Json:
    """Return the message of a reply, which has no subject of its own."""
    about: Json = {"name": name, "payload": {"$ref": SCHEMAS.format(name=name)}}
    if (golden := GOLDEN / f"{name}.json").exists():
        about["examples"] = [{"payload": msgspec.json.decode(golden.read_bytes())["whole"]}]
    return about


def _fault() -> Json:
    """Return the message of an error reply, which any service may send for any command."""
    return {
        "name": "Fault",
        "summary": "Why a command was refused.",
        "headers": {"$ref": SCHEMAS.format(name="FaultHeaders")},
        "payload": {"$ref": SCHEMAS.format(name="Fault")},
    }


def _replies(contracts: dict[str, type[Message]]) -> Json:
    messages = {name: {"$ref": f"#/components/messages/{name}"} for name in [*sorted(_replied(contracts)), "Fault"]}
    return {"address": None, "description": "The inbox of whoever asks.", "messages": messages}


def _replied(contracts: dict[str, type[Message]]) -> set[str]:
    return {_reply(contract).__name__ for contract in contracts.values() if is_command(contract)}


def _schemas(contracts: dict[str, type[Message]]) -> Json:
    replies = [_reply(contract) for contract in contracts.values() if is_command(contract)]
    _, described = msgspec.json.schema_components([*contracts.values(), *replies, FaultBody], ref_template=SCHEMAS)
    described["Fault"] = described.pop("FaultBody") | {"title": "Fault"}
    text = {"type": "string"}
    trace = {"traceparent": {**text, "description": "W3C Trace Context."}}
    described["CloudEventHeaders"] = {
        "description": "CloudEvents 1.0 in binary mode. What is stored has its id as `Nats-Msg-Id`, too.",
        "type": "object",
        "properties": {
            "ce-specversion": {"const": "1.0"},
            **{f"ce-{name}": text for name in ("id", "type", "source")},
            "ce-time": {**text, "format": "date-time"},
            **trace,
            "Nats-Msg-Id": text,
        },
        "required": ["ce-specversion", "ce-id", "ce-type", "ce-source", "ce-time", "traceparent"],
    }
    described["AppendHeaders"] = {
        "description": "Compare and set: refused unless the subject's last message has this position in its stream.",
        "type": "object",
        "properties": {"Nats-Expected-Last-Subject-Sequence": {**text, "pattern": "^[0-9]+$"}},
    }
    described["FaultHeaders"] = {
        "type": "object",
        "properties": {"Nats-Service-Error": text, "Nats-Service-Error-Code": {**text, "pattern": "^[0-9]{3}$"}},
        "required": ["Nats-Service-Error", "Nats-Service-Error-Code"],
    }
    return dict(sorted(described.items()))


def _reply(command: type[Message]) -> type[Message]:
    return reply_type(cast("type[Command[Any]]", command))


def _said(contract: type[Message]) -> str:
    return inspect.cleandoc(contract.__doc__ or "")


def written() -> bytes:
    """Return the document that the file contains."""
    return msgspec.json.format(msgspec.json.encode(document()), indent=2) + b"\n"


if __name__ == "__main__":
    WRITTEN.write_bytes(written())
