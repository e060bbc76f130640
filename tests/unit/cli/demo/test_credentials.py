"""The demo asks for the key of the model's provider and passes it only to the gateway."""

import subprocess
import sys
from pathlib import Path

from muster.cli.demo.model_environment import DemoModel, demo_environment
from muster.common.described_model import described_model
from muster.common.model_entries import ModelEntry
from muster.embedded.environment import base_environment

CANARY = "sk-canary"
NO_FILE = Path("/no/models.toml")
USER = {
    "PATH": "/bin",
    "MUSTER_LOG_LEVEL": "DEBUG",
    "ANTHROPIC_API_KEY": CANARY,
    "OPENAI_API_KEY": CANARY,
    "DAYTONA_API_KEY": CANARY,
    "https_proxy": "http://proxy",
    "GITHUB_TOKEN": CANARY,
}


def test_scripted_demo_receives_no_key_and_no_proxy() -> None:
    assert demo_environment(USER, None) == {"PATH": "/bin", "MUSTER_LOG_LEVEL": "DEBUG"}


def test_real_model_gets_only_its_providers_key_and_only_in_the_gateway() -> None:
    env = demo_environment(USER, DemoModel("anthropic/claude-x", NO_FILE))

    assert set(env) == {"PATH", "MUSTER_LOG_LEVEL", "ANTHROPIC_API_KEY", "https_proxy"}
    assert CANARY not in base_environment(env).values()


def test_stored_model_brings_only_its_file_and_its_key_variable(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text("")
    entry = ModelEntry(kind="vllm", model="m", key_env="GITHUB_TOKEN")

    env = demo_environment({**USER, "MUSTER_MODELS_FILE": "/other"}, DemoModel("local", file, entry))

    assert set(env) == {"PATH", "MUSTER_LOG_LEVEL", "MUSTER_MODELS_FILE", "GITHUB_TOKEN", "https_proxy"}
    assert env["MUSTER_MODELS_FILE"] == str(file)
    assert CANARY not in base_environment(env).values()


def test_described_model_brings_the_variables_that_describe_it() -> None:
    user = {**USER, "LLM_MODEL": "m", "LLM_BASE_URL": "http://h/v1", "LLM_API_KEY": CANARY, "LLM_OTHER": "x"}
    described = described_model(user)
    assert described

    env = demo_environment(user, DemoModel("llm", NO_FILE, described.entry))

    assert set(env) - set(demo_environment(user, None)) == {"LLM_MODEL", "LLM_BASE_URL", "LLM_API_KEY", "https_proxy"}


def test_scripted_demo_does_not_read_the_models_of_the_user() -> None:
    assert "MUSTER_MODELS_FILE" not in demo_environment({**USER, "MUSTER_MODELS_FILE": "/broken"}, None)


def test_the_command_refuses_a_model_without_a_key_before_anything_starts(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "muster.cli", "demo", "--model", "openai/x", "--isolation", "plain"],
        env={"PATH": "/bin", "HOME": str(tmp_path), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode == 4, ended.stderr
    assert "OPENAI_API_KEY" in ended.stderr
    assert list(tmp_path.glob("muster-demo-*")) == []


def test_the_demo_leaves_servers_that_the_user_has_configured_alone() -> None:
    user = {"MUSTER_CONFIG": "/c", "MUSTER_NATS_TLS_CA_FILE": "/ca", "MUSTER_DATABASE_TLS_CA_FILE": "/ca"}
    assert demo_environment(user | {"MUSTER_LOG_LEVEL": "DEBUG"}, None) == {"MUSTER_LOG_LEVEL": "DEBUG"}
