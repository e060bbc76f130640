"""`docs/openapi.json` documents the whole API with valid examples, and `docs/roles.md` the roles of each route."""

import re
from collections.abc import Iterator
from typing import Any, get_args

import jsonschema
import msgspec
import pytest
from starlette.routing import Match

from muster.common.contracts.access import Scope
from muster.common.contracts.problem import CONTENT_TYPE
from tests.contract import openapi

DOCUMENT: dict[str, Any] = msgspec.json.decode(openapi.DOCUMENT.read_bytes())
OPERATIONS = [(f"{method.upper()} {path}", one) for path, of in DOCUMENT["paths"].items() for method, one in of.items()]
every_operation = pytest.mark.parametrize(("name", "operation"), OPERATIONS, ids=[name for name, _ in OPERATIONS])
AGAIN = "run `python -m tests.contract.openapi`, and read the diff"


def test_openapi_document_and_role_table_in_docs_equal_the_generated_ones() -> None:
    assert openapi.DOCUMENT.read_bytes() == openapi.document(), AGAIN
    assert openapi.TABLE.read_text() == openapi.table(), AGAIN


def test_document_is_valid_by_its_standard() -> None:
    # Every worker of pytest-xdist imports this module, and schemathesis takes half a second.
    from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

    assert [error.message for error in OPENAPI_31_VALIDATOR.iter_errors(DOCUMENT)] == []


def test_every_route_is_described_and_requires_a_role_and_a_matching_scope() -> None:
    assert {f"{one.method} {one.path}" for one in openapi.ROUTES} == {name for name, _ in OPERATIONS}
    for method, path, requirement in openapi.ROUTES:
        assert (requirement is None) == (path in ("/api/health", "/health", "/ready"))
        if requirement is None or path == "/api/v1/whoami":
            continue
        assert requirement.scope, path
        assert requirement.scope.endswith(":read") or method != "GET"
        assert requirement.scope.endswith(":write") or method in ("GET", "POST")
    declared = {one.requirement.scope for one in openapi.ROUTES if one.requirement and one.requirement.scope}
    assert declared == set(get_args(Scope))


def test_every_path_reaches_its_own_route() -> None:
    """FastAPI takes the first matching route, so a path without parameters must be declared before one with parameters."""
    everything = list(openapi.app().routes)
    for asked in openapi.ROUTES:
        path = re.sub(r"{\w+}", "x", asked.path)
        scope = {"type": "http", "method": asked.method, "path": path, "root_path": ""}
        first = next(route for route in everything if route.matches(scope)[0] is Match.FULL)
        assert getattr(first, "path", "") == asked.path, f"{asked.path} is never reached"


def test_every_name_in_the_document_is_unique_and_every_reference_resolves() -> None:
    names = [operation["operationId"] for _, operation in OPERATIONS]
    assert len(names) == len(set(names))
    there = {f"#/components/{room}/{name}" for room, of in DOCUMENT["components"].items() for name in of}
    assert set(_references(DOCUMENT)) == {one for one in there if "/securitySchemes/" not in one}


@every_operation
def test_every_operation_documents_its_effect_and_its_error_responses(name: str, operation: dict[str, Any]) -> None:
    assert operation["summary"]
    assert operation["description"].endswith((".", ")"))
    assert operation["tags"][0] in {tag["name"] for tag in DOCUMENT["tags"]}
    parameters = operation.get("parameters", [])
    in_path = {one["name"] for one in parameters if one["in"] == "path"}
    assert in_path == set(re.findall(r"{(\w+)}", name))
    refused = {status for status in operation["responses"] if status >= "400"}
    if "security" in operation:
        assert refused >= {"401", "403", "429", "503", "504"}
    for status in refused:
        assert "$ref" in operation["responses"][status], f"add it to the route: responses=refuses({status})"
        response = _resolved(operation["responses"][status])
        assert response["content"][CONTENT_TYPE]["example"]["status"] == int(status)
    if name.startswith("POST"):
        assert "Idempotency-Key" in {one["name"] for one in parameters}
        assert refused >= {"409", "422"}
    # A part of a file says by its offset which parts it follows.
    if name.startswith(("PUT", "DELETE /api/v1/agents")) and not name.endswith("/files"):
        assert "If-Match" in {one["name"] for one in parameters if one.get("required")}
        assert refused >= {"412", "428"}


@every_operation
def test_every_body_and_error_response_has_a_valid_example(name: str, operation: dict[str, Any]) -> None:
    bodies = [operation["requestBody"]] if "requestBody" in operation else []
    refusals = [_resolved(one) for status, one in operation["responses"].items() if status >= "400"]
    for part in [*bodies, *refusals]:
        for content in part["content"].values():
            schema = {**content["schema"], "components": DOCUMENT["components"]}
            examples = [content["example"]] if "example" in content else _shown(content)
            validator: Any = jsonschema.Draft202012Validator(schema)
            assert [error.message for one in examples for error in validator.iter_errors(one)] == [], name


def _shown(content: dict[str, Any]) -> list[Any]:
    """Return the examples that a route gives for its body."""
    assert "examples" in content["schema"], "give the body one: Body(examples=[...])"
    return content["schema"]["examples"]


def _resolved(part: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in part:
        return part
    _, _, room, name = part["$ref"].split("/")
    return DOCUMENT["components"][room][name]


def _references(part: Any) -> Iterator[str]:
    match part:
        case dict():
            for name, inner in part.items():  # pyright: ignore[reportUnknownVariableType] - JSON
                if name == "$ref":
                    yield str(inner)  # pyright: ignore[reportUnknownArgumentType]
                else:
                    yield from _references(inner)
        case list():
            for inner in part:  # pyright: ignore[reportUnknownVariableType]
                yield from _references(inner)
        case _:
            pass
