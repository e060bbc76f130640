"""Models without a provider key are recognised without a call of the provider."""

import pytest

from muster.common.model_keys import (
    KEYS,
    added_providers,
    allowed_providers,
    missing_key,
    provider_keys,
    variable_prefixes,
)

CANARY = "canary-key"


@pytest.mark.parametrize("model", ["openai/gpt-5-mini", "gpt-5-mini", "claude-x", "gemini/flash", "groq/a/b"])
def test_a_model_without_a_key_names_the_variable_to_set(model: str) -> None:
    why = missing_key(model, {"OTHER_API_KEY": CANARY, "OPENAI_API_KEY": " "})
    assert why is not None
    assert model in why
    assert "_API_KEY" in why


@pytest.mark.parametrize("model", ["ollama/tiny", "bedrock/x", "my-vendor/model", "scripted/none", "nonsense", ""])
def test_model_of_an_unknown_provider_is_not_refused(model: str) -> None:
    assert missing_key(model, {}) is None


def test_any_variable_of_a_provider_is_enough_and_no_key_is_shown() -> None:
    env = {"GOOGLE_API_KEY": CANARY}
    assert missing_key("gemini/flash", env) is None
    told = {one.provider: one.found for one in provider_keys(env)}
    assert {provider for provider, found in told.items() if found} == {"gemini"}
    assert CANARY not in str(list(provider_keys(env)))


def test_gateway_receives_every_variable_of_an_allowed_provider() -> None:
    for names in KEYS.values():
        for name in names:
            assert name.startswith(variable_prefixes()), name


def test_a_provider_is_added_with_the_variables_that_configure_it() -> None:
    added = added_providers(" hosted_vllm, bedrock,")
    assert not {"hosted_vllm", "bedrock", "ollama", "github_copilot"} & allowed_providers()
    assert {"hosted_vllm", "bedrock", "openai", "scripted"} <= allowed_providers(added)
    for name in ("HOSTED_VLLM_API_BASE", "AWS_REGION"):
        assert name.startswith(variable_prefixes(added))
        assert not name.startswith(variable_prefixes())
