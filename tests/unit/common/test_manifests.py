"""Manifests on disk: discovery of packages, and errors for the author of a package."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from muster.agent.scaffold import rendered, write
from muster.common.faults import Conflict, InvalidMessage
from muster.common.manifests import MOST_CONTENT_BYTES, digest, import_root, package_folders, read_manifest
from tests.support.house import ROOT

Edit = Callable[[str, str], Path]


@pytest.fixture
def edited(tmp_path: Path) -> Edit:
    """A valid package with one part of its manifest replaced."""
    folder = write("parrot", tmp_path)

    def change(old: str, new: str) -> Path:
        file = folder / "agent.toml"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))
        return folder

    return change


def test_built_in_packages_are_usable() -> None:
    roots = [ROOT / "agents" / name / "src/muster/agents" for name in ("echo", "openhands")]
    echo, openhands = (read_manifest(folder) for folder in package_folders(roots))
    assert set(echo.modes) == {"process", "sandbox"}
    assert [capability.name for capability in echo.capabilities] == ["echo", "script"]
    assert openhands.needs_model
    assert openhands.modes == ("sandbox",)


@pytest.mark.parametrize(
    ("old", "new", "field", "says"),
    [
        ('name = "parrot"', 'name = "Par rot"', "$.name", "a-z 0-9 _"),
        ('name = "parrot"\n', "", "$.name", "name is missing"),
        ('version = "0.1.0"', "version = 1", "$.version", "version must be a text"),
        ('version = "0.1.0"', 'version = "new"', "$.version", "0.1.0"),
        ('module = "parrot"', 'module = "os; rm"', "$.module", "dotted name"),
        ('module = "parrot"', 'module = "muster.parrot"', "$.module", "not this folder"),
        ('"process", "sandbox"', '"process", "moon"', "$.modes[1]", "'moon'"),
        ('"process", "sandbox"', "", "$.modes", "each once"),
        ("graceful_stop_s = 5.0", "graceful_stop_s = -1", "$.graceful_stop_s", "0 to 300"),
        ("graceful_stop_s", "gracefull_stop_s", "$.gracefull_stop_s", "there are name"),
        ('name = "answer"', 'name = "a.>"', "$.capabilities[0].name", "a-z 0-9"),
        ('name = "answer"', 'nam = "answer"', "$.capabilities[0].nam", "is not a field"),
        ('type = "object"', 'type = "string"', "$.capabilities[0].config", "JSON Schema"),
        ("[[capabilities]]", "[resources]\nopen_files = 0\n[[capabilities]]", "$.resources.open_files", "more than 0"),
        ("[[capabilities]]", "[[capabilities", "$", "not TOML"),
        ("[[capabilities]]", "#" * 70_000, "$", "64 KiB"),
        ('version = "0.1.0"', "version = " + "[" * 3000 + "]" * 3000, "$", "nested too deep"),
        ("graceful_stop_s = 5.0", "graceful_stop_s = " + "9" * 5000, "$", "not TOML"),
    ],
)
def test_invalid_manifest_is_reported_with_file_and_field(
    edited: Edit, old: str, new: str, field: str, says: str
) -> None:
    folder = edited(old, new)
    with pytest.raises(InvalidMessage, match=r"^agent\.toml") as refused:
        read_manifest(folder)
    assert refused.value.field == field
    assert says in str(refused.value)


def test_a_folder_that_cannot_be_started_is_no_package(tmp_path: Path) -> None:
    folder = write("parrot", tmp_path)
    (folder / "__main__.py").unlink()
    with pytest.raises(InvalidMessage, match=r"has no __main__\.py"):
        read_manifest(folder)
    (folder / "agent.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(InvalidMessage, match="not UTF-8"):
        read_manifest(folder)
    (folder / "agent.toml").unlink()
    with pytest.raises(InvalidMessage, match="is missing"):
        read_manifest(folder)


def test_folders_are_found_once_and_skipped_folders_never(tmp_path: Path) -> None:
    for name in ("zebra", "parrot"):
        write(name, tmp_path)
    for name in ("_template", "test", "__pycache__", ".hidden"):
        shutil.copytree(tmp_path / "parrot", tmp_path / name)
    (tmp_path / "no_manifest").mkdir()
    (tmp_path / "a_file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    found = package_folders([tmp_path, tmp_path / "link", tmp_path / "away"])
    assert found == [tmp_path / "parrot", tmp_path / "zebra"]
    assert {import_root(folder, read_manifest(folder)) for folder in found} == {tmp_path}


def test_a_digest_changes_with_content_and_names_and_not_with_caches(tmp_path: Path) -> None:
    folder = write("parrot", tmp_path)
    seen = [digest(folder)]
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__/agent.pyc").write_bytes(b"x")
    (folder / ".swp").touch()
    assert digest(folder) == seen[0]
    (folder / "agent.py").write_text("pass\n")
    seen.append(digest(folder))
    (folder / "agent.py").rename(folder / "agency.py")
    seen.append(digest(folder))
    assert len(set(seen)) == 3


def test_new_package_is_created_from_the_template() -> None:
    written = {
        path: (ROOT / "agents/_template" / path).read_text() for path, _ in rendered("template", module="_template")
    }
    assert written == dict(rendered("template", module="_template"))


@pytest.mark.parametrize(
    "name", ["Par", "a-b", "", "a.b", "../x", "class", "test", "json", "pytest", "muster", "a" * 65]
)
def test_invalid_package_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidMessage) as refused:
        write(name, tmp_path)
    assert refused.value.field == "$.name"
    assert not list(tmp_path.iterdir())


def test_existing_files_are_not_overwritten(tmp_path: Path) -> None:
    write("parrot", tmp_path)
    with pytest.raises(Conflict):
        write("parrot", tmp_path)


def test_digest_reads_only_regular_files_of_any_name(edited: Edit) -> None:
    folder = edited('name = "parrot"', 'name = "parrot"')
    before = digest(folder)
    os.mkfifo(folder / "pipe")
    (folder / "endless").symlink_to("/dev/zero")
    (folder / "itself").symlink_to(folder / "itself")
    assert digest(folder) == before
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.txt")).write_text("latin")
    assert digest(folder) != before


def test_a_folder_that_is_no_code_is_refused(edited: Edit) -> None:
    folder = edited('name = "parrot"', 'name = "parrot"')
    with (folder / "store.bin").open("wb") as file:
        file.truncate(MOST_CONTENT_BYTES + 1)
    with pytest.raises(InvalidMessage, match="64 MiB"):
        digest(folder)


@pytest.mark.parametrize(
    ("added", "field"),
    [
        ('[network]\nhosts = ["nosuchpreset"]', "$.network.hosts"),
        ('[network]\nhost = ["pypi"]', "$.network.host"),
        ('[network]\nmode = "all"', "$.network.mode"),
        ('[env]\nHTTPS_PROXY = "x"', "$.env.HTTPS_PROXY"),
        ('[env]\nAPI_TOKEN = "x"', "$.env.API_TOKEN"),
    ],
)
def test_wrong_network_or_variable_of_a_package_is_refused_by_field(edited: Edit, added: str, field: str) -> None:
    folder = edited("[[capabilities]]", f"{added}\n\n[[capabilities]]")
    with pytest.raises(InvalidMessage) as refused:
        read_manifest(folder)
    assert refused.value.field == field


def test_package_names_the_hosts_and_variables_that_it_needs(edited: Edit) -> None:
    needs = '[network]\nhosts = ["pypi", "api.example.org"]\n\n[env]\nCI = "1"\n\n[[capabilities]]'
    manifest = read_manifest(edited("[[capabilities]]", needs))
    assert manifest.network is not None
    assert manifest.network.hosts == ["pypi", "api.example.org"]
    assert manifest.env == {"CI": "1"}
