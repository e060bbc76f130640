"""How a query string is read, an operation found, and an id minted."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from muster.common.faults import InvalidMessage
from muster.management_api.domain.queries import AgentQuery, LogQuery
from muster.management_api.routes.operation import Asked, Operation, reading
from muster.management_api.routes.routing import Operations


def query(text: str) -> Request:
    return Request({"type": "http", "query_string": text.encode(), "headers": []})


def test_a_query_is_read_as_its_type_says():
    read = reading(AgentQuery)(query("state=idle&limit=7&label=a%3Db%3Dc&label=d%3D&name_starts=a%20b"))

    assert (read.state, read.limit, read.labels, read.name_starts) == ("idle", 7, {"a": "b=c", "d": ""}, "a b")
    assert reading(LogQuery)(query("follow=false&wait_s=1.5")) == LogQuery(follow=False, wait_s=1.5)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("limit=0", "$.limit"),
        ("limit=1.0", "$.limit"),
        ("limit=1e1", "$.limit"),
        ("limit=%2B5", "$.limit"),
        ("limit=1&limit=1", "$.limit"),
        ("state=null", "$.state"),
        ("state=", "$.state"),
        ("limits=1", "$.limits"),
        ("label=%00%3D", "$.label[0]"),
        ("name_starts=%00", "$.name_starts"),
    ],
)
def test_what_a_query_should_not_say_is_named(text: str, field: str):
    with pytest.raises(InvalidMessage) as refused:
        reading(AgentQuery)(query(text))

    assert refused.value.field == field


async def answer(asked: Asked[None, None]) -> Response:
    """Answers."""
    return Response(str(asked.request.path_params))


def test_a_path_that_says_more_goes_before_one_with_a_place():
    def of(method: str, path: str) -> Operation:
        return Operation(method, path, answer, f"{method}-{path}", "", reply="text/plain")

    operations = Operations([of("GET", "/a/{x_id}"), of("POST", "/a/find"), of("GET", "/a/{x_id}/b"), of("PUT", "/a")])

    def found(path: str) -> tuple[bool, list[str], dict[str, str]]:
        match, scope = operations.matches({"type": "http", "path": path})
        return match is Match.FULL, list(scope["methods"]), scope["path_params"]

    assert found("/a/find") == (True, ["POST"], {})
    assert found("/a/1") == (True, ["GET"], {"x_id": "1"})
    assert found("/a/1/b") == (True, ["GET"], {"x_id": "1"})
    for nowhere in ("/a/", "/a//b", "/b", "/a/1/2", ""):
        assert found(nowhere) == (False, [], {})


def test_an_id_is_minted_from_the_seed_of_the_key_if_there_is_one():
    def asked(**scope: object) -> Asked[None, None]:
        return Asked(cast("Any", SimpleNamespace(scope=scope)), None, None)

    assert asked().mint("tsk", lambda prefix: f"{prefix}_new") == "tsk_new"
    seeded = asked(seed=b"0123456789abcdef")
    assert seeded.mint("tsk", lambda _: "") == seeded.mint("tsk", lambda _: "")
    assert seeded.mint("agt", lambda _: "")[4:] == seeded.mint("tsk", lambda _: "")[4:]
