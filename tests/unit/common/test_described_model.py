"""The variables of OpenHands describe one configured model."""

import pytest

from muster.common.described_model import described_entries, described_model
from muster.common.faults import InvalidMessage

URL = "http://10.0.0.1:8000/v1"


@pytest.mark.parametrize(
    ("name", "kind", "model"),
    [
        ("anthropic/claude-x", "anthropic", "claude-x"),
        ("hosted_vllm/org/m", "vllm", "org/m"),
        ("ollama/qwen3:8b", "ollama", "qwen3:8b"),
        ("litellm_proxy/m", "litellm", "m"),
        ("openrouter/org/m", "openrouter", "org/m"),
        ("qwen/qwen3-coder", "openai", "qwen/qwen3-coder"),
        ("my-model", "openai", "my-model"),
        ("claude-x", "anthropic", "claude-x"),
    ],
)
def test_prefix_of_the_name_selects_the_kind_of_server(name: str, kind: str, model: str) -> None:
    entry = described_entries({"LLM_MODEL": name, "LLM_BASE_URL": URL, "LLM_API_KEY": "k"})["llm"]
    assert (entry.kind, entry.model, entry.base_url, entry.key_env) == (kind, model, URL, "LLM_API_KEY")


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"LLM_MODEL": "openai/gpt-5-mini"},
        {"LLM_BASE_URL": URL, "LLM_API_KEY": "k"},
        {"LLM_MODEL": "gemini/flash", "LLM_API_KEY": "k"},
        {"LLM_MODEL": " ", "LLM_BASE_URL": URL},
    ],
)
def test_a_name_or_an_address_alone_describes_no_model(env: dict[str, str]) -> None:
    assert described_model(env) is None


def test_key_variable_is_named_only_if_it_is_set_or_needed() -> None:
    assert described_entries({"LLM_MODEL": "m", "LLM_BASE_URL": URL})["llm"].key_env is None
    assert described_entries({"LLM_MODEL": "anthropic/m", "LLM_BASE_URL": URL})["llm"].key_env == "LLM_API_KEY"


def test_variables_of_openhands_itself_have_precedence() -> None:
    env = {
        "OPENHANDS_MODEL": "openai/a",
        "LLM_MODEL": "openai/b",
        "OPENHANDS_BASE_URL": URL,
        "LLM_BASE_URL": "http://x",
    }
    described = described_model(env)
    assert described
    assert (described.entry.model, described.entry.base_url) == ("a", URL)
    assert described.variables == ("OPENHANDS_MODEL", "OPENHANDS_BASE_URL")


@pytest.mark.parametrize("url", ["10.0.0.1", "http://u:p@h/v1", "ftp://h"])
def test_wrong_address_names_its_variable(url: str) -> None:
    with pytest.raises(InvalidMessage, match="LLM_BASE_URL"):
        described_model({"LLM_MODEL": "m", "LLM_BASE_URL": url})
