"""The entry of `git.toml` for a repository does not depend on the way in which its URL is written."""

from pathlib import Path

import pytest

from muster.common.faults import InvalidMessage
from muster.common.git_hosts import listed_host, read_hosts


def named(tmp_path: Path, *names: str) -> Path:
    path = tmp_path / "git.toml"
    path.write_text("".join(f'[hosts."{name}"]\n' for name in names))
    return path


@pytest.mark.parametrize(
    ("path", "name"),
    [
        *(("/org/prod", "Prod"), ("/org/prod.git", "Prod"), ("/Org/PROD.GIT/", "Prod"), ("/org/prod/sub", "Prod")),
        *(("/org/tool", "tool"), ("/org/production", ""), ("/org/prod.wiki.git", "")),
    ],
)
def test_entry_of_one_repository_applies_to_each_form_of_its_url(tmp_path: Path, path: str, name: str) -> None:
    hosts = read_hosts(named(tmp_path, "GitHub.com", "github.com/Org/Prod", "github.com/org/tool.git"))
    found = listed_host(hosts, "github.com", path)
    assert found is not None
    assert found.name.removesuffix(".git") == {"Prod": "github.com/Org/Prod", "": "github.com"}.get(
        name, f"github.com/org/{name}"
    )
    assert listed_host(hosts, "git.invalid", path) is None


@pytest.mark.parametrize("names", [("github.com/a", "github.com/A.git"), ("GitHub.com", "github.com")])
def test_two_entries_for_the_same_repositories_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    with pytest.raises(InvalidMessage, match=r"mean the same; remove one"):
        read_hosts(named(tmp_path, *names))
