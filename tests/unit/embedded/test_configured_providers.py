"""A model provider from the configuration file gets its variables, as one from the environment."""

from pathlib import Path

import pytest

from muster.embedded.environment import providers

OWN = {"OLLAMA_API_BASE": "http://h:1", "OPENAI_API_KEY": "k", "GITHUB_TOKEN": "no"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("muster.toml", '[sandbox_gateway]\nmodel_providers = "ollama, hosted_vllm"\n'),
        ("muster.yaml", "sandbox_gateway:\n  model_providers: ollama\n"),
    ],
)
def test_variables_of_a_provider_that_the_configuration_file_adds_reach_the_gateway(
    tmp_path: Path, name: str, content: str
) -> None:
    file = tmp_path / name
    file.write_text(content)
    told = dict(providers({**OWN, "MUSTER_CONFIG": str(file)}, tmp_path))
    assert told == {"OLLAMA_API_BASE": "http://h:1", "OPENAI_API_KEY": "k"}


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "muster.toml"
    file.write_text('[sandbox_gateway]\nmodel_providers = "ollama"\n')
    told = dict(providers({**OWN, "MUSTER_CONFIG": str(file), "MUSTER_MODEL_PROVIDERS": "hosted_vllm"}, tmp_path))
    assert told == {"OPENAI_API_KEY": "k"}
