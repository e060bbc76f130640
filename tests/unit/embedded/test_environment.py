"""Environment variables of each service, and the CLI's search for a stack."""

from dataclasses import replace
from pathlib import Path

import pytest

from muster.common.nats_identity.credentials import read_credentials
from muster.embedded.config import StackConfig
from muster.embedded.environment import Addresses, base_environment, environment
from muster.embedded.nats_authority import NatsAuthority
from muster.embedded.program_part import ProgramPart
from muster.embedded.programs import SERVICES, SHIM
from muster.embedded.stack_directory import StackDirectory, fresh_secrets

USER = {
    "PATH": "/bin",
    "HOME": "/home/me",
    "SHELL": "/bin/sh",
    "AWS_SECRET_ACCESS_KEY": "canary-aws",
    "ANTHROPIC_API_KEY": "canary-model",
    "GITHUB_TOKEN": "canary-github",
    "MUSTER_API_KEY": "canary-cli",
    "MUSTER_NATS_URL": "canary-nats",
    "MUSTER_LOG_LEVEL": "DEBUG",
    "COVERAGE_PROCESS_START": "here",
}
AT = Addresses(nats_url="nats://h:1", database_url="postgresql://u:p@h:2/d", gateway_url="http://h:3")


def told(tmp_path: Path) -> dict[str, dict[str, str]]:
    config, at = StackConfig(user_env=USER), replace(AT, authority=NatsAuthority(tmp_path / "identity"))
    return {
        program.name: environment(
            program,
            config,
            data_directory=StackDirectory(tmp_path, tmp_path),
            secrets=fresh_secrets(),
            addresses=at,
            listeners={"api": 7, "gateway": 8},
        )
        for program in (*SERVICES, SHIM)
    }


def test_service_drains_within_its_grace_so_that_its_answers_are_sent_before_it_is_killed(tmp_path: Path) -> None:
    for told_drain_s, expected in (({}, "6"), ({"MUSTER_DRAIN_S": "1"}, "1")):
        part = ProgramPart(
            SERVICES[0], python="python", env=told_drain_s, log=tmp_path, state=tmp_path, socket=tmp_path, grace_s=20.0
        )
        assert part.command().grace_s == 20.0
        assert part.command().env["MUSTER_DRAIN_S"] == expected


def test_base_environment_contains_no_credentials() -> None:
    assert base_environment(USER) == {
        "PATH": "/bin",
        "HOME": "/home/me",
        "TZ": "UTC",
        "PYTHONUNBUFFERED": "1",
        "MUSTER_LOG_LEVEL": "DEBUG",
        "COVERAGE_PROCESS_START": "here",
    }


@pytest.mark.parametrize(
    ("variable", "holders"),
    [
        ("MUSTER_NATS_URL", {"management_api", "agent_manager", "guardian", "sandbox_gateway"}),
        ("MUSTER_DATABASE_URL", {"agent_manager", "management_api"}),
        ("MUSTER_NATS_CREDENTIALS", {"management_api", "agent_manager", "guardian", "sandbox_gateway"}),
        ("MUSTER_NATS_ACCOUNT", {"agent_manager"}),
        ("MUSTER_NATS_AGENT_SEED", {"agent_manager"}),
        ("MUSTER_NATS_OPERATOR_SEED", {"agent_manager"}),
        ("MUSTER_NATS_SYSTEM_CREDENTIALS", {"agent_manager"}),
        ("MUSTER_ADMIN_KEY", {"management_api"}),
        ("MUSTER_TOKEN_KEYS", {"sandbox_gateway"}),
        ("MUSTER_SHIM_SOCKET", {"agent_manager", "sandbox_gateway"}),
        ("MUSTER_HTTP_FD", {"management_api", "sandbox_gateway"}),
        ("ANTHROPIC_API_KEY", {"sandbox_gateway"}),
        ("AWS_SECRET_ACCESS_KEY", set[str]()),
        ("GITHUB_TOKEN", set[str]()),
        ("MUSTER_API_KEY", set[str]()),
    ],
)
def test_each_variable_reaches_the_services_that_need_it(tmp_path: Path, variable: str, holders: set[str]) -> None:
    assert {name for name, env in told(tmp_path).items() if variable in env} == holders


def test_the_variables_of_an_added_provider_reach_the_gateway_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(USER, "MUSTER_MODEL_PROVIDERS", "bedrock")
    assert {name for name, env in told(tmp_path).items() if "AWS_SECRET_ACCESS_KEY" in env} == {"sandbox_gateway"}


def test_the_users_own_nats_url_is_replaced_by_the_stacks(tmp_path: Path) -> None:
    assert told(tmp_path)["guardian"]["MUSTER_NATS_URL"] == AT.nats_url


def test_every_service_has_separate_private_credentials(tmp_path: Path) -> None:
    files = {name: Path(env["MUSTER_NATS_CREDENTIALS"]) for name, env in told(tmp_path).items() if name != "shim"}

    assert {name: read_credentials(file.read_text()).name for name, file in files.items()} == {n: n for n in files}
    assert {file.stat().st_mode & 0o777 for file in files.values()} == {0o600}
    assert not any("SEED" in name or "SYSTEM" in name for name in told(tmp_path)["sandbox_gateway"])


def test_external_server_is_used_with_the_users_credentials(tmp_path: Path) -> None:
    config = StackConfig(user_env={**USER, "MUSTER_NATS_CREDENTIALS": "mine.creds"})
    env = environment(
        SERVICES[0],
        config,
        data_directory=StackDirectory(tmp_path, tmp_path),
        secrets=fresh_secrets(),
        addresses=AT,
        listeners={"api": 7},
    )
    assert env["MUSTER_NATS_CREDENTIALS"] == "mine.creds"
