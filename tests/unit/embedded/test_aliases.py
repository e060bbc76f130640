"""Variables of other programs work as aliases of settings, and no value is lost without a word."""

from pathlib import Path

import pytest

from muster.common.faults import InvalidMessage
from muster.embedded.aliases import alias_notes, with_aliases
from muster.embedded.environment import base_environment, model_test_environment, providers

CANARY = "sk-canary"
SERVER = {"LLM_MODEL": "hosted_vllm/org/m", "LLM_BASE_URL": "http://10.0.0.1:8000/v1", "LLM_API_KEY": CANARY}


@pytest.mark.parametrize(
    ("variable", "value", "setting", "expected"),
    [
        ("OPENHANDS_MODEL", "openai/gpt-5-mini", "MUSTER_DEFAULT_MODEL", "openai/gpt-5-mini"),
        ("LLM_MODEL", " gpt-5-mini ", "MUSTER_DEFAULT_MODEL", "gpt-5-mini"),
        ("OPENHANDS_TIMEOUT", "600", "MUSTER_DEFAULT_TIMEOUT_S", "600"),
        ("OPENHANDS_ENABLE_CIRCUIT_BREAKER", "False", "MUSTER_MODEL_BREAKER", "false"),
        ("LLM_MODEL", "ollama/qwen3", "MUSTER_DEFAULT_MODEL", "llm"),
    ],
)
def test_alias_sets_its_setting_unless_the_setting_is_given(
    variable: str, value: str, setting: str, expected: str
) -> None:
    assert base_environment({variable: value})[setting] == expected
    assert base_environment({variable: value, setting: "own"})[setting] == "own"
    assert variable not in base_environment({variable: value})
    assert setting not in with_aliases({variable: " "})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OPENHANDS_TIMEOUT", "ten"),
        ("OPENHANDS_TIMEOUT", "0"),
        ("OPENHANDS_TIMEOUT", "nan"),
        ("OPENHANDS_ENABLE_CIRCUIT_BREAKER", "perhaps"),
    ],
)
def test_error_names_the_variable_that_the_user_has_set(variable: str, value: str) -> None:
    with pytest.raises(InvalidMessage, match=variable):
        base_environment({variable: value})


def test_wrong_address_of_the_described_model_names_its_variable(tmp_path: Path) -> None:
    with pytest.raises(InvalidMessage, match="LLM_BASE_URL"):
        dict(providers({**SERVER, "LLM_BASE_URL": "10.0.0.1"}, tmp_path))


def test_described_model_is_the_default_and_only_the_gateway_gets_its_key(tmp_path: Path) -> None:
    assert base_environment(SERVER)["MUSTER_DEFAULT_MODEL"] == "llm"
    assert CANARY not in base_environment(SERVER).values()
    assert dict(providers(SERVER, tmp_path)) == SERVER
    assert model_test_environment(SERVER, tmp_path)["LLM_API_KEY"] == CANARY


def test_variables_that_describe_no_model_are_not_passed_on(tmp_path: Path) -> None:
    assert dict(providers({"LLM_API_KEY": CANARY, "LLM_BASE_URL": "http://h"}, tmp_path)) == {}


def test_notes_name_used_and_unused_variables_without_a_key() -> None:
    used, unused = alias_notes({**SERVER, "OPENHANDS_WORKSPACE_ROOT": "/w", "OPENHANDS_USE_DOCKER_RUNTIME": "1"})
    assert "LLM_MODEL as MUSTER_DEFAULT_MODEL" in used
    assert "LLM_API_KEY as the model llm" in used
    assert "OPENHANDS_WORKSPACE_ROOT, OPENHANDS_USE_DOCKER_RUNTIME" in unused
    assert CANARY not in used + unused
    assert alias_notes({"PATH": "/bin"}) == []
    [unused] = alias_notes({"LLM_BASE_URL": "http://h"})
    assert "LLM_BASE_URL" in unused
