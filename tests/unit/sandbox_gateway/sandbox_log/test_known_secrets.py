"""The gateway knows its own secrets, also those that its configuration files name."""

from pathlib import Path

import pytest

from muster.sandbox_gateway.sandbox_log.adapters.known_secrets import known_secrets
from muster.sandbox_gateway.settings import GatewaySettings

_GIT_TOML = """
[hosts."github.com"]
token_env = "GITHUB_PAT"
[hosts."git.invalid/team"]
token_file = "team.token"
[hosts."open.invalid"]
[hosts."unset.invalid"]
token_env = "NOT_SET"
"""


@pytest.fixture
def settings(tmp_path: Path) -> GatewaySettings:
    return GatewaySettings.model_validate(
        {
            "nats_url": "nats://gateway:of-the-bus-only@127.0.0.1:4222",
            "data_dir": tmp_path,
            "gateway_socket": tmp_path / "sockets" / "gateway.sock",
            "shim_socket": tmp_path / "shim.sock",
            "token_keys": "one:" + "ab" * 32,
        }
    )


def test_tokens_of_git_hosts_are_known(settings: GatewaySettings, tmp_path: Path) -> None:
    (tmp_path / "git.toml").write_text(_GIT_TOML)
    (tmp_path / "team.token").write_text("token-in-a-file\n")
    (tmp_path / "team.token").chmod(0o600)
    known = known_secrets(settings, {"GITHUB_PAT": "token-in-a-variable"})
    assert known["token of github.com"] == "token-in-a-variable"
    assert known["token of git.invalid/team"] == "token-in-a-file"
    assert "token of unset.invalid" not in known


def test_other_secrets_are_known_while_git_toml_cannot_be_read(settings: GatewaySettings, tmp_path: Path) -> None:
    (tmp_path / "git.toml").write_text("[hosts")
    known = known_secrets(settings, {"SOME_API_KEY": "a-key"})
    assert (known["SOME_API_KEY"], known["NATS password"]) == ("a-key", "of-the-bus-only")
