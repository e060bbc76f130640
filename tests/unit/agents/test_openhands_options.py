"""The options of the OpenHands agent are checked by its package's schema, and equally by the worker."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
import pytest

from muster.agent_manager.fleet.domain.config_check import refuse_unfit_config, unsound
from muster.agents.openhands.iterations import IterationLimit
from muster.agents.openhands.options import McpServer, Options, options_of
from muster.common.contracts.packages import Manifest
from muster.common.faults import InvalidMessage
from tests.support.openhands_schema import MANIFEST, schema, written

README = Path(str(files("muster.agents.openhands"))).parents[3] / "README.md"
SERVER = {"command": "python3", "args": ["server.py"], "env": {"A": "b"}, "start_timeout_s": 5}


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return msgspec.toml.decode(MANIFEST.read_bytes(), type=Manifest)


def test_schema_of_the_package_is_that_of_the_options() -> None:
    assert written() == schema()


def test_every_option_is_in_the_readme() -> None:
    text = README.read_text()
    assert [field.name for field in msgspec.structs.fields(Options) if f"`{field.name}`" not in text] == []


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"max_iterations": 1, "tools": ["terminal", "grep"], "repository_skills": False, "disabled_skills": ["agents"]},
        {"mcp_servers": {"files-1": SERVER}, "system_message_suffix": "Answer in French."},
        {"condenser": {"max_events": 20, "keep_first": 8, "max_tokens": 1000}, "security": {}},
        {"condenser": {"enabled": False}, "security": {"refuse": "MEDIUM", "analyzer": "model"}},
    ],
)
def test_allowed_config_is_accepted_by_manager_and_worker(manifest: Manifest, config: dict[str, Any]) -> None:
    assert unsound(manifest) is None
    refuse_unfit_config(manifest, config)
    options_of({}, config)


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"max_iteration": 5}, ""),
        ({"max_iterations": 0}, ".max_iterations"),
        ({"max_iterations": "5"}, ".max_iterations"),
        ({"tools": []}, ".tools"),
        ({"tools": ["browser"]}, ".tools[0]"),
        ({"condenser": {"max_events": 19}}, ".condenser.max_events"),
        ({"condenser": {"keep_first": 9}}, ".condenser.keep_first"),
        ({"mcp_servers": {"a_b": SERVER}}, ".mcp_servers"),
        ({"mcp_servers": {"a": {"url": "http://127.0.0.1"}}}, ".mcp_servers.a"),
        ({"mcp_servers": {"a": SERVER | {"start_timeout_s": 0}}}, ".mcp_servers.a.start_timeout_s"),
        ({"mcp_servers": {f"s{number}": SERVER for number in range(17)}}, ".mcp_servers"),
        ({"security": {"refuse": "LOW"}}, ".security.refuse"),
        ({"system_message_suffix": "x" * 16_385}, ".system_message_suffix"),
    ],
)
def test_wrong_config_is_refused_by_manager_and_worker(manifest: Manifest, config: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidMessage) as refusal:
        refuse_unfit_config(manifest, config)
    assert refusal.value.field == f"$.config{field}"
    with pytest.raises(InvalidMessage, match="config of the OpenHands agent cannot be used"):
        options_of({}, config)


def test_package_of_ones_own_sets_defaults_which_agents_and_tasks_replace() -> None:
    defaults = {"max_iterations": 7, "mcp_servers": {"docs": {"command": "docs-server"}}}
    options = options_of(defaults, {"max_iterations": 9})
    assert (options.max_iterations, options.mcp_servers) == (9, {"docs": McpServer("docs-server")})


def test_iterations_are_the_answers_of_the_model_in_the_whole_attempt() -> None:
    class Event:
        def __init__(self, answer: str | None) -> None:
            self.llm_response_id = answer

    # One answer with two tool calls makes two events in a row, and a server may repeat the id of an answer.
    events: list[Any] = [Event(answer) for answer in (None, "r1", "r1", None, None, "r1")]
    assert IterationLimit(3).left(events) == 1
    assert IterationLimit(2).left(events) == IterationLimit(1).left(events) == 0
    assert IterationLimit(msgspec.UNSET).left(events) is None
    assert "limit of 3 iterations" in str(IterationLimit(3).result().error)
