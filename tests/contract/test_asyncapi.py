"""`docs/asyncapi.json` agrees with the contracts, roles and streams of the code."""

from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from muster.common.contract import wildcard
from muster.common.nats_identity.roles import ROLES, NatsRole
from tests.contract.asyncapi import WRITTEN, document, written
from tests.contract.parties import (
    PEOPLE,
    STREAMS,
    handled,
    is_command,
    kept_in,
    may_hear,
    may_keep,
    may_publish,
    meets,
    subjects,
)

STANDARD = Path(__file__).parent / "asyncapi-3.0.schema.json"
WITHOUT_BODY = {"sandbox.*.*.bell"}
WITHOUT_CONTRACT = {"tool.>"}
"""Kept for internal tools, each of which brings its own."""


def test_asyncapi_document_in_docs_equals_the_generated_document() -> None:
    assert WRITTEN.read_bytes() == written(), "run `python -m tests.contract.asyncapi`, and read the diff"


def test_document_is_valid_by_its_standard() -> None:
    standard = msgspec.json.decode(STANDARD.read_bytes())

    wrong = [f"{list(error.absolute_path)}: {error.message}" for error in _errors(standard, document())]

    assert wrong == []


def test_golden_messages_are_valid_by_the_schemas() -> None:
    described = document()
    shown = 0
    for name, message in described["components"]["messages"].items():
        schema = {**message["payload"], "components": described["components"]}
        for example in message.get("examples", []):
            shown += 1
            assert [error.message for error in _errors(schema, example["payload"])] == [], name

    assert shown > 50


@pytest.mark.parametrize("subject", [subject for subject, contract in subjects().items() if is_command(contract)])
def test_only_the_role_that_answers_a_command_may_subscribe_to_it(subject: str) -> None:
    name, (answerer,) = subjects()[subject].__name__, may_hear(subject)

    answered_by = [service for service, commands in handled().items() if name in commands]

    assert answered_by == ([] if answerer == NatsRole.AGENT else [answerer])


@pytest.mark.parametrize("subject", [subject for subject, contract in subjects().items() if not is_command(contract)])
def test_publisher_of_each_event_has_the_permission_to_publish_it(subject: str) -> None:
    assert may_publish(subject), "no role may publish it"


def test_every_stream_has_an_owner_and_stores_only_messages_with_a_contract() -> None:
    assert {spec.name for spec in STREAMS} == may_keep()
    assert {stream for subject in subjects() for stream in kept_in(subject)} == {spec.name for spec in STREAMS}


def test_no_role_may_publish_a_subject_without_documentation() -> None:
    # The server's own subjects and the inboxes of requests are omitted.
    others = ("$", "_INBOX.")
    granted = {grant for role in ROLES.keys() - PEOPLE for grant in ROLES[role].publish if not grant.startswith(others)}

    unknown = {grant for grant in granted if not any(meets(grant, subject) for subject in subjects())}

    assert unknown == WITHOUT_BODY | WITHOUT_CONTRACT


def test_agent_may_not_publish_as_another_component() -> None:
    assert not meets("agent.{{name()}}.response", "agent.manager.response")
    assert meets("agent.{{name()}}.response", "agent.{agent_id}.response")
    assert not meets("agent.*.log", wildcard("agent.{agent_id}.event.{kind}"))


def _errors(schema: Any, instance: Any) -> list[Any]:
    validator: Any = jsonschema.Draft7Validator
    return list(validator(schema).iter_errors(instance))
