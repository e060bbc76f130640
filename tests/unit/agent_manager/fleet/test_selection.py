"""The choice of an agent, the reasons against the other agents, and the usability of packages."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.agent_manager.fleet.domain.agents import AgentRecord
from muster.agent_manager.fleet.domain.config_check import refuse_unfit_config, unsound
from muster.agent_manager.fleet.domain.packages import Catalogue, DiscoveredPackage, listed
from muster.agent_manager.fleet.domain.selection import AgentRequirements, Candidate, choose
from muster.common.contracts.agent_spec import AgentSpec
from muster.common.contracts.packages import Capability, Manifest
from muster.common.faults import InvalidMessage

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def candidate(name: str, *, age_s: int = 0, live: int = 0, trouble: str | None = None, **fields: object) -> Candidate:
    spec = {
        field: fields.pop(field) for field in AgentSpec.__struct_fields__ if field in fields and field != "capabilities"
    }
    row: dict[str, object] = {
        "spec": AgentSpec(**({"name": name, "mode": "sandbox"} | spec)),  # type: ignore[arg-type]
        "agent_id": f"agt_{name}",
        "package": "echo",
        "is_default": False,
        "agent_type": "scripted",
        "agent_version": "0.1.0",
        "capabilities": ["echo"],
        "desired": "running",
        "state": "idle",
        "state_since": NOON,
        "cites": "registered",
        "created_at": NOON - timedelta(seconds=age_s),
        "updated_at": NOON,
        **fields,
    }
    return Candidate(agent=AgentRecord(**row), live_tasks=live, package_trouble=trouble)  # type: ignore[arg-type]


def why(chosen: list[Candidate], wanted: AgentRequirements) -> dict[str, str]:
    return {one.name: one.why for one in choose(chosen, wanted).considered}


def test_all_reasons_against_an_agent_are_listed() -> None:
    wanted = AgentRequirements(
        capabilities=["echo", "sing"], package="echo", mode="process", labels={"a": "1", "b": "2"}
    )
    (said,) = why(
        [candidate("x", package="other", labels={"a": "0"}, trouble="package other is gone")], wanted
    ).values()
    assert said == (
        "is made from other, not echo; package other is gone; is of mode sandbox, not process; lacks sing; "
        "has label a=0, not 1; has no label b=2"
    )


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"desired": "stopped", "state": "stopped"}, "is not running"),
        ({"desired": "stopped"}, "has the desired state stopped"),
        ({"state": "starting"}, "is still starting"),
        ({"state": "error", "reason": "exit code 3"}, "is in error: exit code 3"),
        ({"state": "unresponsive"}, "is unresponsive"),
        ({"mode": "process", "state": "running"}, "is busy"),
        ({"state": "running", "live": 2}, "is busy with 2 live tasks"),
        ({"state": "quarantined"}, "is quarantined"),
    ],
)
def test_agent_that_cannot_start_a_task_now_is_unavailable_with_a_reason(fields: dict[str, object], said: str) -> None:
    one = candidate("x", **fields)  # type: ignore[arg-type]
    assert why([one], AgentRequirements(available=True, most_live=2)) == {"x": said}
    anyway = choose([one], AgentRequirements(most_live=2))
    assert (anyway.best is None) is (said == "is quarantined")


def test_least_loaded_agent_is_chosen_and_among_equals_the_oldest() -> None:
    some = [
        candidate("loaded", live=2, state="running", age_s=9),
        candidate("young", age_s=1),
        candidate("old", age_s=5),
        candidate("asleep", age_s=99, desired="stopped", state="stopped"),
        candidate("wrong", age_s=99, package="other"),
    ]
    chosen = choose(some, AgentRequirements(package="echo", most_live=9))
    assert chosen.best is some[2]
    assert {one.name: one.why for one in chosen.considered} == {
        "old": "fits, and is idle",
        "young": "fits as well as old, which is older",
        "loaded": "fits, but is running with 2 live tasks, and old is idle",
        "asleep": "fits, but is stopped, and old is idle",
        "wrong": "is made from other, not echo",
    }
    assert [one.chosen for one in chosen.considered] == [True, False, False, False, False]


@given(st.permutations([candidate(str(n), live=n % 2, age_s=n % 3) for n in range(6)]))
def test_choice_does_not_depend_on_the_order_of_agents(shuffled: list[Candidate]) -> None:
    chosen = choose(shuffled, AgentRequirements(most_live=9))
    assert [one.name for one in chosen.considered] == ["2", "4", "0", "5", "1", "3"]


def manifest(name: str, config: dict[str, object] | None = None) -> Manifest:
    return Manifest(
        name=name, type="t", version="1", module=name, capabilities=[Capability(name="do", config=config or {})]
    )


def test_second_package_of_a_name_is_unusable_with_a_reason() -> None:
    views = listed(
        [
            DiscoveredPackage(folder=Path("/b/echo"), digest="1", manifest=manifest("echo")),
            DiscoveredPackage(folder=Path("/a/other"), digest="2", manifest=manifest("echo")),
            DiscoveredPackage(folder=Path("/a/broken"), digest="3", reason="agent.toml is not TOML"),
            DiscoveredPackage(folder=Path("/a/kept"), digest="4", manifest=manifest("kept")),
        ],
        allowed=("echo",),
    )
    assert [(view.name, view.folder, view.usable, view.reason) for view in views] == [
        ("broken", "/a/broken", False, "agent.toml is not TOML"),
        ("echo", "/b/echo", True, None),
        (
            "echo",
            "/a/other",
            False,
            "the package in /b/echo has the name echo too, and was found first; rename one of them",
        ),
        (
            "kept",
            "/a/kept",
            False,
            "kept is not in MUSTER_PACKAGES; add it, or leave MUSTER_PACKAGES empty to allow all",
        ),
    ]
    catalogue = Catalogue()
    catalogue.show(views)
    assert catalogue.usable("echo").name == "echo"
    assert catalogue.folder("echo") == Path("/b/echo")
    with pytest.raises(InvalidMessage, match="package broken cannot be used: agent"):
        catalogue.usable("broken")
    assert catalogue.why_not("gone") == "there is no package 'gone'; there are: echo"


def _nested(deep: int) -> dict[str, object]:
    config: dict[str, object] = {}
    for _ in range(deep):
        config = {"not": config}
    return config


@pytest.mark.parametrize(
    ("config", "trouble"),
    [
        ({"type": "objec"}, "is not a valid JSON Schema"),
        ({"$ref": "#"}, "refers to itself endlessly"),
        ({"$ref": "http://127.0.0.1:9/schema"}, "which the schema does not contain"),
        ({"$ref": "#/required/zz", "required": ["a"]}, "contains an invalid reference"),
        (_nested(2000), "nested too deep"),
        ({"patternProperties": {"^(a+)+$": {}}}, "is not supported"),
    ],
)
def test_a_schema_that_cannot_be_used_makes_its_package_unusable(config: dict[str, object], trouble: str) -> None:
    assert trouble in str(unsound(manifest("x", config)))


def test_endlessly_backtracking_pattern_is_aborted_soon() -> None:
    slow: dict[str, object] = {"properties": {"word": {"pattern": "^(a|aa)+$"}}}
    assert unsound(manifest("x", slow)) is None
    refuse_unfit_config(manifest("x", slow), {"word": "aaaa"})
    for word, why in (("b", "does not match"), ("a" * 60 + "!", "takes too long")):
        with pytest.raises(InvalidMessage, match=why) as refused:
            refuse_unfit_config(manifest("x", slow), {"word": word})
        assert refused.value.field == "$.config.word"


def test_invalid_config_is_refused_with_the_name_of_its_field() -> None:
    strict: dict[str, object] = {
        "type": "object",
        "required": ["tone"],
        "properties": {"tone": {"enum": ["low", "high"]}, "many": {"items": {"type": "integer"}}},
    }
    assert unsound(manifest("x", strict)) is None
    refuse_unfit_config(manifest("x", strict), {"tone": "low", "many": [1], "else": None})
    for config, field in (
        ({}, "$.config"),
        ({"tone": "loud"}, "$.config.tone"),
        ({"tone": "low", "many": ["1"]}, "$.config.many[0]"),
    ):
        with pytest.raises(InvalidMessage) as refused:
            refuse_unfit_config(manifest("x", strict), config)
        assert refused.value.field == field
