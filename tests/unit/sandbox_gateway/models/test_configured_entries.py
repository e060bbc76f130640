"""The gateway reads `models.toml` again when it changes, and keeps the entries of before while it cannot be read."""

from pathlib import Path
from typing import Any

import pytest

from muster.common.faults import InvalidMessage
from muster.common.model_entries import ModelEntry as Entry
from muster.common.model_entries import check_entry, key_of, read_entries
from muster.sandbox_gateway.models.adapters.configured_models import ConfiguredModels

OWN = '[models.own]\nkind = "vllm"\nmodel = "m"\n'
CANARY = "a-key-that-no-error-shows"


def test_changed_file_is_read_again_and_a_broken_one_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    configured = ConfiguredModels(file, {})
    assert configured.get("own") is None
    file.write_text(OWN)
    assert configured.get("own") == Entry(kind="vllm", model="m")
    for broken in (OWN + "[models.oth", OWN + '[models.other]\nkind = "opena"\nmodel = "x"\n', ""):
        file.write_text(broken)
        assert configured.get("own") == Entry(kind="vllm", model="m")
    file.write_text(OWN.replace('"m"', '"n"'))
    assert configured.get("own") == Entry(kind="vllm", model="n")
    file.unlink()
    assert configured.get("own") is None


def test_hosted_models_need_no_readable_file(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text("[")
    configured = ConfiguredModels(file, {})
    assert configured.get("openai/gpt-5-mini") is None
    with pytest.raises(InvalidMessage, match=r"models\.toml cannot be read"):
        configured.get("own")


@pytest.mark.parametrize(
    ("name", "fields", "field"),
    [
        ("a/b", {}, "$.name"),
        ("own", {"key_env": "K", "key_file": "f"}, "$.key_env"),
        ("own", {"key_env": "MUSTER_K"}, "$.key_env"),
        ("own", {"base_url": "ftp://h"}, "$.base_url"),
        ("own", {"base_url": "http://"}, "$.base_url"),
        ("own", {"base_url": f"http://u:{CANARY}@h"}, "$.base_url"),
        ("own", {"base_url": f"http://h?key={CANARY}"}, "$.base_url"),
    ],
)
def test_entry_that_cannot_be_called_is_refused_with_its_field(name: str, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidMessage) as refused:
        check_entry(name, Entry(kind="openai", model="m", **fields))
    assert refused.value.field == field
    assert CANARY not in str(refused.value)


def test_error_of_a_file_names_the_entry_and_the_known_fields(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text(OWN + "keyenv = 1\n")
    with pytest.raises(InvalidMessage, match=r"\[models\.own\] there is no field keyenv; there are kind, model"):
        read_entries(file)


def test_key_file_must_be_private_and_its_key_is_in_no_error(tmp_path: Path) -> None:
    file, key = tmp_path / "models.toml", tmp_path / "key"
    entry = Entry(kind="openai", model="m", key_file="key")
    key.write_text(f"{CANARY}\r\n")
    key.chmod(0o644)
    with pytest.raises(InvalidMessage, match="chmod 600") as refused:
        key_of(entry, file, {})
    assert CANARY not in str(refused.value)
    key.chmod(0o600)
    assert key_of(entry, file, {}) == CANARY
