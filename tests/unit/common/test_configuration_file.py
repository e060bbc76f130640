"""A configuration file together with the environment: precedence, and errors that name the key."""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import Field, SecretStr

from muster.agent_manager.settings import ManagerMigration, ManagerSettings
from muster.common.configuration_file import MAX_CONFIGURATION_BYTES, ConfigurationError
from muster.common.service_process import read_settings
from muster.common.settings import DatabaseSettings, ProcessSettings, ServersSettings, ServiceSettings, shared_keys
from muster.guardian.settings import GuardianSettings
from muster.management_api.settings import ApiSettings
from muster.sandbox_gateway.settings import GatewaySettings

EVERY_SERVICE = (ManagerSettings, GuardianSettings, ApiSettings, GatewaySettings)


class Settings(ServiceSettings, DatabaseSettings):
    """The settings of a small service."""

    section: ClassVar[str] = "agent_manager"

    admin_key: SecretStr = SecretStr("")
    max_running: int = Field(16, ge=1)
    packages_dirs: str = ""


def told[S: ProcessSettings](settings: Callable[..., S] = Settings, **said: int) -> S:
    """Return the settings that the sources give."""
    return settings(**said)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSTER_NATS_URL", "nats://from-environment")
    monkeypatch.setenv("MUSTER_DATABASE_URL", "postgresql://from-environment/d")


def configure(monkeypatch: pytest.MonkeyPatch, path: Path, text: str, *, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    monkeypatch.setenv("MUSTER_CONFIG", str(path))
    return path


def refusals(capsys: pytest.CaptureFixture[str], settings: type[ServiceSettings] = Settings) -> list[str]:
    with pytest.raises(SystemExit) as ended:
        read_settings(settings)
    assert ended.value.code == 2
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.toml", 'packages_dirs = "/shared"\ndrain_s = 3\n[agent_manager]\nmax_running = 4\ndrain_s = 5.5\n'),
        ("m.yaml", "packages_dirs: /shared\ndrain_s: 3\nagent_manager:\n  max_running: 4\n  drain_s: 5.5\nguardian:\n"),
    ],
)
def test_table_of_a_service_wins_over_the_top_and_the_environment_over_both(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, text: str
) -> None:
    configure(monkeypatch, tmp_path / name, text)
    settings = told()
    assert (settings.packages_dirs, settings.drain_s, settings.max_running) == ("/shared", 5.5, 4)
    assert settings.nats_url.get_secret_value() == "nats://from-environment"
    monkeypatch.setenv("MUSTER_MAX_RUNNING", "7")
    assert told().max_running == 7
    assert told(max_running=8).max_running == 8


def test_every_unknown_key_is_refused_by_its_name_and_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = configure(
        monkeypatch,
        tmp_path / "m.toml",
        'max_running = 4\nlog_levle = "INFO"\n[agent_manager]\nmax_runing = 1\n[gaurdian]\nlease_ttl_s = 1\n'
        "[sandbox_gateway]\nthe_gateway_says_so_itself = 1\n",
    )
    said = refusals(capsys)
    assert said == [
        f"{path}: max_running: there is no such setting here; it belongs into [agent_manager]",
        f"{path}: log_levle: there is no such setting here; did you mean log_level?",
        f"{path}: gaurdian: there is no such table; did you mean guardian?",
        f"{path}: [agent_manager] max_runing: there is no such setting here; did you mean max_running?",
    ]


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({}, "[agent_manager] max_running"),
        ({"MUSTER_MAX_RUNNING": "canary"}, "MUSTER_MAX_RUNNING"),
    ],
)
def test_invalid_value_is_refused_with_its_source_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    variables: dict[str, str],
    named: str,
) -> None:
    configure(monkeypatch, tmp_path / "m.toml", '[agent_manager]\nmax_running = "canary"\n')
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    (line,) = refusals(capsys)
    assert f"{named}: " in line
    assert "canary" not in line


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("m.toml", "a = [canary", "not valid TOML"),
        ("m.yaml", "nats_url: 'canary\n", "not valid YAML in line"),
        ("m.yaml", "- canary\n", "must contain keys"),
        ("m.yaml", "drain_s: 1\ndrain_s: 2\n", "the key drain_s occurs twice"),
        ("m.yaml", "1: canary\n", "the key 1 is not a text"),
        ("m.toml", "guardian = 1\n", "guardian must be a table"),
        ("m.ini", "", "must end with .toml, .yaml or .yml"),
        ("m.toml", "#" * (MAX_CONFIGURATION_BYTES + 1), "is larger than"),
    ],
)
def test_file_that_cannot_be_read_says_why_without_its_content(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, text: str, said: str
) -> None:
    path = configure(monkeypatch, tmp_path / name, text)
    with pytest.raises(ConfigurationError) as refused:
        told()
    assert said in str(refused.value)
    assert str(path) in str(refused.value)
    assert "canary" not in str(refused.value)


def test_missing_configuration_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MUSTER_CONFIG", str(tmp_path / "gone.toml"))
    with pytest.raises(ConfigurationError, match=r"MUSTER_CONFIG: .*gone\.toml cannot be read"):
        told()


def test_every_secret_can_come_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(f"postgresql://{name}/d\n")
        (tmp_path / name).chmod(0o600)
    monkeypatch.delenv("MUSTER_DATABASE_URL")
    configure(monkeypatch, tmp_path / "m.toml", f'database_url_file = "{tmp_path / "one"}"\n')
    assert told().database_url.get_secret_value() == "postgresql://one/d"
    assert told(ManagerMigration).database_url.get_secret_value() == "postgresql://one/d"
    monkeypatch.setenv("MUSTER_DATABASE_URL", "")  # Docker Compose sets a missing value to an empty text.
    monkeypatch.setenv("MUSTER_DATABASE_URL_FILE", str(tmp_path / "two"))
    assert told().database_url.get_secret_value() == "postgresql://two/d"


def test_secret_given_twice_in_one_place_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key").write_text("canary")
    monkeypatch.setenv("MUSTER_ADMIN_KEY", "canary")
    monkeypatch.setenv("MUSTER_ADMIN_KEY_FILE", str(tmp_path / "key"))
    assert refusals(capsys) == ["MUSTER_ADMIN_KEY and MUSTER_ADMIN_KEY_FILE are both set; remove one of them"]
    monkeypatch.delenv("MUSTER_ADMIN_KEY_FILE")
    text = f'[agent_manager]\nadmin_key = "canary"\nadmin_key_file = "{tmp_path / "key"}"\n'
    path = configure(monkeypatch, tmp_path / "m.toml", text)
    said = "admin_key and admin_key_file are both set; remove one of them"
    assert refusals(capsys) == [f"{path}: [agent_manager] {said}"]


@pytest.mark.parametrize("content", [None, "", "\n"])
def test_secret_file_without_a_secret_is_refused_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    if content is not None:
        (tmp_path / "key").write_text(content)
    monkeypatch.setenv("MUSTER_ADMIN_KEY_FILE", str(tmp_path / "key"))
    (line,) = refusals(capsys)
    assert line.startswith(f"MUSTER_ADMIN_KEY_FILE: {tmp_path / 'key'} ")


def test_secret_in_a_world_readable_configuration_file_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = configure(monkeypatch, tmp_path / "m.toml", '[agent_manager]\nadmin_key = "canary"\n', mode=0o644)
    (line,) = refusals(capsys)
    assert line.startswith(f"{path}: [agent_manager] admin_key: every user of this machine can read this secret")
    assert "canary" not in line
    path.chmod(0o640)
    assert told().admin_key.get_secret_value() == "canary"


def test_url_without_a_password_is_accepted_in_a_world_readable_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MUSTER_NATS_URL")
    configure(monkeypatch, tmp_path / "m.toml", 'nats_url = "tls://nats:4222"\n', mode=0o644)
    assert told().nats_url.get_secret_value() == "tls://nats:4222"
    for url in ("nats://me:canary@nats:4222", "nats://nats?password=canary"):
        configure(monkeypatch, tmp_path / "m.toml", f'nats_url = "{url}"\n', mode=0o644)
        (line,) = refusals(capsys)
        assert "nats_url: every user of this machine can read this secret" in line


def test_world_readable_secret_file_causes_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key").write_text("canary")
    (tmp_path / "key").chmod(0o444)  # as Docker and Kubernetes mount it
    monkeypatch.setenv("MUSTER_ADMIN_KEY_FILE", str(tmp_path / "key"))
    assert told().admin_key.get_secret_value() == "canary"
    assert capsys.readouterr().err.startswith("MUSTER_ADMIN_KEY_FILE: every user of this machine can read")


def test_migration_takes_its_database_from_the_service_s_table_and_leaves_the_rest_to_the_service(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("MUSTER_DATABASE_URL")
    configure(monkeypatch, tmp_path / "m.toml", '[agent_manager]\ndatabase_url = "postgresql://m/d"\nmax_running = 2\n')
    assert told(ManagerMigration).database_url.get_secret_value() == "postgresql://m/d"


def test_embedded_stack_reads_the_top_level_of_the_same_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MUSTER_DATABASE_URL", "MUSTER_NATS_URL"):
        monkeypatch.delenv(name)
    assert not ServersSettings().nats_url.get_secret_value()
    configure(monkeypatch, tmp_path / "m.yaml", "nats_url: nats://n\ndatabase_url: postgresql://p/d\n")
    servers = ServersSettings()
    assert servers.nats_url.get_secret_value() == "nats://n"
    assert servers.database_url.get_secret_value() == "postgresql://p/d"


def test_only_settings_of_several_services_are_allowed_at_the_top_level() -> None:
    plain = {name for name in shared_keys() if not name.endswith("_url_file")}
    having = {name: sum(name in settings.model_fields for settings in EVERY_SERVICE) for name in plain}
    assert {name for name, count in having.items() if count < 2} == set()
