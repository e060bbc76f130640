"""`muster up` and the processes of services read the configuration file and secret files."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from muster.embedded.config import StackConfig
from muster.embedded.environment import Addresses, base_environment, environment
from muster.embedded.nats_authority import NatsAuthority
from muster.embedded.programs import SERVICES
from muster.embedded.stack_directory import StackDirectory, fresh_secrets
from tests.support.caller import Caller
from tests.support.certificates import CertificateAuthority
from tests.support.command import muster
from tests.support.stack import running_stack

AT = Addresses(nats_url="nats://h:1", database_url="postgresql://u:p@h:2/d", gateway_url="http://h:3")
GATEWAY = next(program for program in SERVICES if program.name == "sandbox_gateway")
MANAGER = next(program for program in SERVICES if program.name == "agent_manager")


def written(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


@pytest.mark.parametrize(
    "service",
    [
        "guardian",
        *(
            pytest.param(name, marks=pytest.mark.stress)
            for name in ("sandbox_gateway", "agent_manager", "management_api")
        ),
    ],
)
def test_service_refuses_an_unknown_key_of_its_table_before_it_connects(tmp_path: Path, service: str) -> None:
    config = written(tmp_path / "m.toml", f"[{service}]\nno_such_thing = 1\n")
    ended = subprocess.run(
        [sys.executable, "-m", f"muster.{service}"],
        env={**os.environ, "MUSTER_CONFIG": config},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 2
    assert ended.stderr == f"{config}: [{service}] no_such_thing: there is no such setting here\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('databse_url = "x"\n', "databse_url: there is no such setting here; did you mean database_url?"),
        ("nats_tls_ca_file = CA\n", "MUSTER_NATS_TLS_CA_FILE is set, but there is no server URL"),
    ],
)
async def test_up_refuses_a_wrong_configuration_before_it_starts_anything(tmp_path: Path, text: str, said: str) -> None:
    ca = CertificateAuthority(tmp_path).file
    config = written(tmp_path / "m.toml", text.replace("CA", f'"{ca}"'))
    ended = await muster("up", "--ephemeral", "--data", str(tmp_path / "data"), MUSTER_CONFIG=config)
    assert ended.code == 2
    assert said in ended.err
    assert not (tmp_path / "data" / "secrets.json").exists()


async def test_commands_find_the_stack_that_the_configuration_file_names(tmp_path: Path) -> None:
    config = written(tmp_path / "m.yaml", f"data_dir: {tmp_path / 'data'}\n")
    ended = await muster("down", MUSTER_CONFIG=config)
    assert ended.err == f"No stack is running in {tmp_path / 'data'}.\n"
    elsewhere = await muster("down", MUSTER_CONFIG=config, MUSTER_DATA_DIR=str(tmp_path / "other"))
    assert elsewhere.err == f"No stack is running in {tmp_path / 'other'}.\n"


async def test_doctor_knows_the_servers_of_the_configuration_file(tmp_path: Path) -> None:
    config = written(tmp_path / "m.toml", f'data_dir = "{tmp_path}"\nnats_url = "nats://n"\ndatabase_url_file = "/f"\n')
    ended = await muster("doctor", "-o", "json", MUSTER_CONFIG=config)
    found = {finding["check"]: finding["found"] for finding in ended.json}
    assert found["nats"] == f"nats_url is set in {config}: that server is used"
    assert found["postgres"] == f"database_url_file is set in {config}: that server is used"


def test_services_do_not_receive_the_secret_files_of_the_stack(tmp_path: Path) -> None:
    user = {"MUSTER_CONFIG": "/c.toml", "MUSTER_DATABASE_URL_FILE": "/one", "MUSTER_NATS_AGENT_SEED_FILE": "/two"}
    assert base_environment({**user, "MUSTER_NATS_TLS_CA_FILE": "/ca"}).keys() >= {
        "MUSTER_CONFIG",
        "MUSTER_NATS_TLS_CA_FILE",
    }
    assert not {name for name in base_environment(user) if name.endswith("_FILE")}
    told = {
        trust: environment(
            MANAGER,
            StackConfig(user_env=user | {"MUSTER_CONFIG": ""}),
            data_directory=StackDirectory(tmp_path, tmp_path),
            secrets=fresh_secrets(),
            addresses=replace(AT, authority=NatsAuthority(tmp_path / "identity") if trust else None),
            listeners={},
        )
        for trust in (True, False)
    }
    assert "MUSTER_NATS_AGENT_SEED_FILE" not in told[True]
    assert told[False]["MUSTER_NATS_AGENT_SEED_FILE"] == "/two"


def test_repository_roots_of_the_configuration_file_are_not_replaced_by_the_home_directory(tmp_path: Path) -> None:
    def roots(text: str) -> str | None:
        user = {"HOME": "/home/me", "MUSTER_CONFIG": written(tmp_path / "m.toml", text)}
        known = fresh_secrets()
        config, home = StackConfig(user_env=user), StackDirectory(tmp_path, tmp_path)
        return environment(
            GATEWAY, config, data_directory=home, secrets=known, addresses=AT, listeners={"gateway": 8}
        ).get("MUSTER_REPO_ROOTS")

    assert roots("") == "/home/me"
    assert roots('[sandbox_gateway]\nrepo_roots = "/srv"\n') is None


@pytest.mark.stress
async def test_one_configuration_file_serves_a_whole_stack(tmp_path: Path) -> None:
    config = written(
        tmp_path / "m.yaml",
        "log_level: ERROR\ndatabase_pool_size: 3\nagent_manager:\n  max_pending: 1\n  max_running: 1\n"
        "guardian:\n  lease_ttl_s: 4\nmanagement_api:\n  requests_per_principal: 500 per second\n"
        "sandbox_gateway:\n  lease_s: 45\n",
    )
    async with running_stack(tmp_path, env={"MUSTER_CONFIG": config}) as stack:
        assert '"level": "info"' not in stack.log("guardian", 1000)
        api = Caller(stack.api_url, stack.admin_key)
        task = {"objective": "wait", "package": "echo", "metadata": {"steps": [{"wait_s": 60}]}}
        refused = [await api.ask("POST", "/api/v1/tasks", task) for _ in range(3)]
        assert {answer.status for answer in refused} - {201, 202} == {429}, [answer.body for answer in refused]
