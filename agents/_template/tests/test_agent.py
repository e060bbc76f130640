"""Tests of the agent without a server; it is the same class that Muster runs."""

from pathlib import Path

import pytest

from _template.agent import TemplateAgent
from muster.agent.testing import started_agent
from muster.common.manifests import read_manifest


def test_manifest_is_valid() -> None:
    manifest = read_manifest(Path(__file__).resolve().parents[1])
    assert manifest.name == "template"


@pytest.mark.parametrize(("config", "answer"), [({}, "You said: hi"), ({"greeting": "Oh"}, "Oh: hi")])
def test_agent_answers_a_message(tmp_path: Path, config: dict[str, str], answer: str) -> None:
    with started_agent(TemplateAgent, tmp_path, config) as agent:
        assert agent.send("hi") == answer
        assert agent.health()["status"] == "ok"
        assert agent.emitted == [("answered", {"to": "test"})]
