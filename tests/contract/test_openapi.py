"""`docs/openapi.json` says what the API does, whole and with examples that are true."""

import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import msgspec
import pytest
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from muster.common.contracts.problem import CONTENT_TYPE
from muster.management_api.domain.roles import ROWS
from muster.management_api.routes import docs
from tests.contract.openapi import WRITTEN, operations, written

DOCUMENT: dict[str, Any] = msgspec.json.decode(written())
OPERATIONS = [(f"{method.upper()} {path}", one) for path, of in DOCUMENT["paths"].items() for method, one in of.items()]
every_operation = pytest.mark.parametrize(("name", "operation"), OPERATIONS, ids=[name for name, _ in OPERATIONS])


def test_the_document_in_docs_is_the_api_as_it_is() -> None:
    assert WRITTEN.read_bytes() == written(), "run `python -m tests.contract.openapi`, and read the diff"


def test_the_document_fits_the_standard() -> None:
    assert [error.message for error in OPENAPI_31_VALIDATOR.iter_errors(DOCUMENT)] == []


def test_every_route_is_in_the_table_of_roles_and_the_reverse() -> None:
    assert {(one.method, one.path) for one in operations()} == {(row.method, row.path) for row in ROWS}
    open_to_all = {(row.method, row.path) for row in ROWS if row.least is None}
    assert {(one.method, one.path) for one in operations() if not one.key} == open_to_all


def test_every_name_and_every_reference_means_one_thing() -> None:
    names = [operation["operationId"] for _, operation in OPERATIONS]
    assert len(names) == len(set(names))
    there = {f"#/components/{room}/{name}" for room, of in DOCUMENT["components"].items() for name in of}
    assert set(_references(DOCUMENT)) == {one for one in there if "/securitySchemes/" not in one}


@every_operation
def test_an_operation_says_what_it_does_and_how_it_refuses(name: str, operation: dict[str, Any]) -> None:
    assert operation["summary"]
    assert operation["description"].endswith((".", ")"))
    assert operation["tags"][0] in {tag["name"] for tag in DOCUMENT["tags"]}
    parameters = [_resolved(one) for one in operation["parameters"]]
    in_path = {one["name"] for one in parameters if one["in"] == "path"}
    assert in_path == set(re.findall(r"{(\w+)}", name))
    refused = {status for status in operation["responses"] if status >= "400"}
    if operation.get("security") != []:
        assert refused >= {"401", "403", "429", "503", "504"}
    for status in refused:
        response = _resolved(operation["responses"][status])
        assert response["content"][CONTENT_TYPE]["example"]["status"] == int(status)
    if name.startswith("POST"):
        assert "Idempotency-Key" in {one["name"] for one in parameters}
        assert refused >= {"409", "422"}
    if name.startswith(("PUT", "DELETE /api/v1/agents")):
        assert "If-Match" in {one["name"] for one in parameters if one.get("required")}
        assert refused >= {"412", "428"}


@every_operation
def test_every_body_and_every_answer_has_an_example_that_fits(name: str, operation: dict[str, Any]) -> None:
    bodies = [operation["requestBody"]] if "requestBody" in operation else []
    for part in [*bodies, *map(_resolved, operation["responses"].values())]:
        for media, content in part.get("content", {}).items():
            if media.startswith(("text/", "image/")) or content["schema"] == {"type": "object"}:
                continue
            schema = {**content["schema"], "components": DOCUMENT["components"]}
            assert "example" in content, (name, content["schema"])
            validator: Any = jsonschema.Draft202012Validator(schema)
            assert [error.message for error in validator.iter_errors(content["example"])] == [], name


def test_the_docs_page_loads_nothing_from_elsewhere() -> None:
    for page in docs.FILES.values():
        assert not re.search(rb"https?://|//[a-z]+\.[a-z]+/", page)
        assert b"style=" not in page
        assert not re.search(rb"<script(?! type=\"module\" src=\"/docs/docs.js\">)", page)
        assert b"innerHTML" not in page


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
