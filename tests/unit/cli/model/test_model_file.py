"""Changes of `models.toml` lose nothing: no entry of another process, no comment, no key of an entry that stays."""

import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from muster.cli.commands.model.model_file import ModelFile
from muster.common.model_entries import ModelEntry, key_of, read_entries
from muster.embedded import private_files

LOCAL = ModelEntry(kind="vllm", model="org/m", base_url="http://h:8000/v1")
WRITTEN = """\
# my servers
[models.one]  # the fast one
kind = "vllm"
model = "a"

# the slow one
[models."two.b"]
kind = "ollama"
model = "b"  # eight bits
"""


@pytest.fixture
def file(tmp_path: Path) -> ModelFile:
    return ModelFile(tmp_path / "new" / "models.toml", tmp_path)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_stored_entry_is_read_back_and_private_to_its_owner(file: ModelFile) -> None:
    entry = msgspec.structs.replace(LOCAL, key_file="model-keys/local", temperature=0.5, input_usd_per_million=1.0)
    file.store("local", entry, "secret", replace=False)

    assert file.entries() == {"local": entry}
    assert key_of(entry, file.path, {}) == "secret"
    assert mode(file.path) == 0o600
    assert (mode(file.path.parent / "model-keys"), mode(file.path.parent / "model-keys" / "local")) == (0o700, 0o600)
    assert "secret" not in file.path.read_text()


def test_removed_entry_takes_its_key_with_it_and_no_other(file: ModelFile) -> None:
    for name in ("a", "b"):
        file.store(name, msgspec.structs.replace(LOCAL, key_file=f"model-keys/{name}"), f"k-{name}", replace=False)

    assert file.remove("a")
    assert file.remove("a") is None
    assert list(file.entries()) == ["b"]
    assert [path.name for path in (file.path.parent / "model-keys").iterdir()] == ["b"]


def test_key_file_that_the_user_has_written_is_never_deleted(file: ModelFile, tmp_path: Path) -> None:
    own = tmp_path / "own-key"
    own.write_text("k")
    file.store("a", msgspec.structs.replace(LOCAL, key_file=str(own)), None, replace=False)
    file.remove("a")
    assert own.exists()


def test_replaced_entry_without_its_key_file_leaves_no_key_behind(file: ModelFile) -> None:
    file.store("a", msgspec.structs.replace(LOCAL, key_file="model-keys/a"), "k", replace=False)
    file.store("a", msgspec.structs.replace(LOCAL, key_env="K"), None, replace=True)
    assert list((file.path.parent / "model-keys").iterdir()) == []


def test_existing_name_needs_replace(file: ModelFile) -> None:
    file.store("a", LOCAL, None, replace=False)
    with pytest.raises(SystemExit):
        file.store("a", msgspec.structs.replace(LOCAL, model="other"), None, replace=False)
    assert file.entries() == {"a": LOCAL}


def test_comments_of_other_entries_are_kept(file: ModelFile) -> None:
    file.path.parent.mkdir()
    file.path.write_text(WRITTEN)
    file.store("new", LOCAL, None, replace=False)
    assert file.path.read_text().startswith(WRITTEN)

    file.store("two.b", LOCAL, None, replace=True)
    file.remove("new")

    assert "# the fast one" in file.path.read_text()
    assert {name: entry.model for name, entry in file.entries().items()} == {"one": "a", "two.b": "org/m"}


@pytest.mark.parametrize(
    "text",
    [
        'models = {one = {kind = "vllm", model = "a"}, two = {kind = "vllm", model = "b"}}\n',
        '[models]\none.kind = "vllm"\none.model = "a"\n[models."two"]\nkind = "vllm"\nmodel = "b"\n',
        '["models"."two"]\nkind = "vllm"\nmodel = "b"\n[models.one]\nkind="vllm"\nmodel="""a"""',
    ],
)
def test_file_in_any_style_of_toml_can_be_changed(file: ModelFile, text: str) -> None:
    file.path.parent.mkdir()
    file.path.write_text(text)
    file.store("new", LOCAL, None, replace=False)
    file.remove("two")
    assert {name: entry.model for name, entry in file.entries().items()} == {"one": "a", "new": "org/m"}


def test_processes_that_add_at_the_same_time_lose_nothing(file: ModelFile) -> None:
    code = (
        "import sys; from pathlib import Path; from muster.cli.commands.model.model_file import ModelFile; "
        "from muster.common.model_entries import ModelEntry\n"
        "for n in range(15): ModelFile(Path(sys.argv[1]), Path()).store("
        "f'{sys.argv[2]}{n}', ModelEntry(kind='vllm', model='m'), None, replace=False)"
    )

    def add(prefix: str) -> int:
        return subprocess.run([sys.executable, "-c", code, str(file.path), prefix], check=False).returncode

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(add, "ab")) == [0, 0]
    assert len(read_entries(file.path)) == 30


def test_new_key_is_never_stored_while_the_file_names_the_old_address(
    file: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = msgspec.structs.replace(LOCAL, key_file="model-keys/a")
    file.store("a", old, "old", replace=False)
    seen: list[tuple[str, str | None]] = []
    new = msgspec.structs.replace(old, base_url="http://other/v1")

    whole = private_files.write_private

    def noted(path: Path, body: bytes) -> None:
        whole(path, body)
        entry = read_entries(file.path).get("a")
        seen.append(((file.path.parent / "model-keys" / "a").read_text().strip(), entry and entry.base_url))

    monkeypatch.setattr(private_files, "write_private", noted)
    file.store("a", new, "new", replace=True)

    assert ("new", old.base_url) not in seen
    assert seen[-1] == ("new", "http://other/v1")
