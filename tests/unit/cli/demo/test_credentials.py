"""The demo asks for the key of the model's provider and passes it only to the gateway."""

import subprocess
import sys

import pytest

from muster.cli.demo.model_environment import demo_environment, missing_key
from muster.embedded.environment import base_environment

CANARY = "sk-canary"
USER = {
    "PATH": "/bin",
    "MUSTER_LOG_LEVEL": "DEBUG",
    "ANTHROPIC_API_KEY": CANARY,
    "OPENAI_API_KEY": CANARY,
    "DAYTONA_API_KEY": CANARY,
    "https_proxy": "http://proxy",
    "GITHUB_TOKEN": CANARY,
}


@pytest.mark.parametrize(
    ("model", "wants"),
    [
        ("anthropic/claude-x", "ANTHROPIC_API_KEY"),
        ("claude-x", "ANTHROPIC_API_KEY"),
        ("gpt-x", "OPENAI_API_KEY"),
        ("gemini/flash", "GEMINI_API_KEY or GOOGLE_API_KEY"),
        ("my-vendor/model", "MY_VENDOR_API_KEY"),
        ("bedrock/x", "AWS_ACCESS_KEY_ID"),
    ],
)
def test_model_without_its_key_is_refused_in_one_sentence(model: str, wants: str) -> None:
    refused = missing_key(model, {"PATH": "/bin"})

    assert refused
    assert wants in refused
    assert missing_key(model, {wants.partition(" ")[0]: CANARY}) is None


def test_scripted_demo_receives_no_key_and_no_proxy() -> None:
    assert demo_environment(USER, None) == {"PATH": "/bin", "MUSTER_LOG_LEVEL": "DEBUG"}


def test_real_model_gets_only_its_providers_key_and_only_in_the_gateway() -> None:
    env = demo_environment(USER, "anthropic/claude-x")

    assert set(env) == {"PATH", "MUSTER_LOG_LEVEL", "ANTHROPIC_API_KEY", "https_proxy"}
    assert CANARY not in base_environment(env).values()


def test_the_command_refuses_a_model_without_a_key_before_anything_starts() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "muster.cli", "demo", "--model", "nobody/x"],
        env={"PATH": "/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode == 2
    assert "NOBODY_API_KEY" in ended.stderr


def test_the_demo_leaves_servers_that_the_user_has_configured_alone() -> None:
    user = {"MUSTER_CONFIG": "/c", "MUSTER_NATS_TLS_CA_FILE": "/ca", "MUSTER_DATABASE_TLS_CA_FILE": "/ca"}
    assert demo_environment(user | {"MUSTER_LOG_LEVEL": "DEBUG"}, None) == {"MUSTER_LOG_LEVEL": "DEBUG"}
