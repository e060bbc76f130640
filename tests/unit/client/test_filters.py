"""The filters of a list are those of the API."""

import pytest

from muster.client.filters import AgentFilters, AuditFilters, TaskFilters
from muster.client.http_messages import filter_query, part, target
from muster.common.clock import utc_now
from muster.common.contracts.agent_registry import ListAgents
from muster.common.contracts.tasks import ListTasks
from muster.management_api.audit.domain import AuditQuery

PAGE = {"cursor", "limit"}


@pytest.mark.parametrize(
    ("filters", "fields"),
    [
        (TaskFilters, ListTasks.__struct_fields__),
        (AgentFilters, ListAgents.__struct_fields__),
        (AuditFilters, tuple(AuditQuery.model_fields)),
    ],
)
def test_client_has_every_filter_of_the_api(filters: type, fields: tuple[str, ...]):
    assert set(filters.__annotations__) == set(fields) - PAGE


def test_query_is_encoded_as_the_api_expects():
    query = filter_query({"state": "queued", "project": None, "follow": True}, {"a b": "c=d"})

    assert target("http://h", "/x", query) == "http://h/x?state=queued&follow=true&label=a+b%3Dc%3Dd"
    assert target("http://h", "/x?y=1", [("z", 2)]) == "http://h/x?y=1&z=2"
    assert target("http://h", "/x", []) == "http://h/x"
    assert target("http://h", "/x", [("since", utc_now())]).endswith("Z")
    assert part("a/b c") == "a%2Fb%20c"
