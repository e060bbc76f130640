"""`docs/configuration.md` agrees with the code."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from muster.common.service_process import read_settings
from tests.support.certificates import CertificateAuthority
from tests.support.settings_page import PAGE, SERVICES, rewritten

SECRETS = {
    "muster-database-url": "postgresql://u:p@h/d",
    "muster-admin-key": "an-admin-key-of-the-page",
    "muster-token-keys": f"k1:{'ab' * 32}",
}


def example(kind: str) -> str:
    found = re.search(rf"```{kind}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found
    return found[1]


def test_table_of_settings_is_that_of_the_code() -> None:
    page = PAGE.read_text()
    assert page == rewritten(page), "run `python -m tests.support.settings_page`"


def test_both_examples_say_the_same() -> None:
    assert tomllib.loads(example("toml")) == yaml.safe_load(example("yaml"))


@pytest.mark.parametrize("kind", ["toml", "yaml"])
def test_every_service_starts_with_the_example(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = example(kind).replace("/etc/muster/nats-ca.pem", str(CertificateAuthority(tmp_path).file))
    for name, content in SECRETS.items():
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o600)
    (tmp_path / f"muster.{kind}").write_text(text.replace("/run/secrets", str(tmp_path)))
    monkeypatch.setenv("MUSTER_CONFIG", str(tmp_path / f"muster.{kind}"))
    for name in ("GATEWAY_SOCKET", "SHIM_SOCKET", "DATA_DIR"):  # The process that starts the gateway sets these.
        monkeypatch.setenv(f"MUSTER_{name}", str(tmp_path / name / "it"))
    manager, guardian, api, gateway = (read_settings(service) for service in SERVICES)
    told: dict[str, Any] = {"max_pending": 5000, "database_pool_size": 20, "beat_running_s": 15.0}
    assert {name: getattr(manager, name) for name in told} == told
    assert {service.model_dump()["nats_credentials"].stem for service in (manager, guardian, api, gateway)} == {
        service.section for service in SERVICES
    }
    assert api.model_dump()["http_host"] == "0.0.0.0"
    assert gateway.model_dump()["token_keys"].get_secret_value() == SECRETS["muster-token-keys"]
