"""Which repositories sandboxes may get, decided without asking a host."""

from pathlib import Path

import pytest

from muster.common.contracts.task_spec import Repo
from muster.common.faults import InvalidMessage
from muster.sandbox_gateway.repositories.adapters.allowed import AllowedRepositories
from muster.sandbox_gateway.repositories.adapters.git_host_rules import GitHostRules
from tests.support.git_server import host_rules

_LISTED = """
[hosts."git.invalid"]
allow_http = true
key_file = "key"
[hosts."git.invalid/private"]
token_env = "GIT_TOKEN"
[hosts."open.invalid"]
"""


def rules(folder: Path, env: dict[str, str] | None = None) -> GitHostRules:
    (folder / "key").touch(mode=0o600)
    return host_rules(folder, _LISTED, env)


def test_only_repositories_below_a_root_and_of_reachable_hosts_may_be_copied(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "repo a" / ".git").mkdir(parents=True)
    (root / "bare" / "objects").mkdir(parents=True)
    (root / "bare" / "HEAD").touch()
    (root / "folder").mkdir()
    outside.mkdir()
    (root / "link").symlink_to(outside)
    closed, open_ = AllowedRepositories([root], host_rules(tmp_path / "root")), AllowedRepositories([], rules(tmp_path))
    url = (root / "repo a").as_uri()
    assert closed.resolve(Repo(url=url, ref="main")).path == (root / "repo a").resolve()
    assert closed.resolve(Repo(url=(root / "bare").as_uri())).path == (root / "bare").resolve()
    for allowed in ("https://other.invalid/a.git", "http://git.invalid/a.git", "ssh://git@git.invalid/a.git"):
        assert open_.resolve(Repo(url=allowed)).path is None
    refused = [
        *(
            (closed, "ssh://git@git.invalid/a.git", None),
            (closed, "http://git.invalid/a.git", None),
            (open_, "https://git.invalid/private/a.git", None),
            (open_, "ssh://git@open.invalid/a.git", None),
            (closed, outside.as_uri(), None),
            (closed, f"{root.as_uri()}/../outside", None),
        ),
        *(
            (closed, (root / "link").as_uri(), None),
            (closed, (root / "none").as_uri(), None),
            (closed, "file://else/x", None),
            (closed, f"{root.as_uri()}/{'a' * 300}", None),
        ),
        *((closed, (root / "folder").as_uri(), None), (open_, "https://git.invalid:99999/a", None)),
        *((open_, "https://git.invalid/a b", None), (open_, "https://[git/a", None), (open_, "git.invalid/a", None)),
        *((open_, "ext::sh -c x", None), (open_, "--upload-pack=x", None), (open_, "ssh://-oProxy/x", None)),
        *((open_, "https://me:pw@git.invalid/a", None), (open_, url, "--force"), (open_, url, "")),
    ]
    for repos, asked, ref in refused:
        with pytest.raises(InvalidMessage) as refusal:
            repos.resolve(Repo(url=asked, ref=ref))
        assert refusal.value.field == ("$.repo.ref" if ref is not None else "$.repo.url")


@pytest.mark.parametrize(
    ("given", "cloned"),
    [
        ("git@github.com:a/b.git", "ssh://git@github.com/a/b.git"),
        ("ada@git.invalid:/srv/b.git", "ssh://ada@git.invalid/srv/b.git"),
        ("ada@git.invalid:b.git", "ssh://ada@git.invalid/~/b.git"),
        ("ada@git.invalid:~eve/b.git", "ssh://ada@git.invalid/~eve/b.git"),
    ],
)
def test_short_ssh_address_is_cloned_by_its_url(tmp_path: Path, given: str, cloned: str) -> None:
    (tmp_path / "key").touch(mode=0o600)
    listed = "".join(f'[hosts."{host}"]\nkey_file = "key"\n' for host in ("github.com", "git.invalid"))
    found = AllowedRepositories([], host_rules(tmp_path, listed)).resolve(Repo(url=given)).remote
    assert found is not None
    assert found.url == cloned


@pytest.mark.parametrize("given", ["ext@host::sh -c x", "-o@host:path", "me@-oProxy:path", "me@host://x", "host:path"])
def test_address_that_git_could_take_for_an_option_is_refused(tmp_path: Path, given: str) -> None:
    with pytest.raises(InvalidMessage):
        AllowedRepositories([], rules(tmp_path)).resolve(Repo(url=given))


def test_refusal_of_a_folder_outside_the_roots_names_the_command_that_allows_it(tmp_path: Path) -> None:
    (tmp_path / "a repo").mkdir()

    with pytest.raises(InvalidMessage, match=f"muster up --repo-root '{tmp_path}/a repo'"):
        AllowedRepositories([], host_rules(tmp_path)).resolve(Repo(url=(tmp_path / "a repo").as_uri()))


def test_the_entry_with_the_longest_path_gives_the_credential(tmp_path: Path) -> None:
    repos = AllowedRepositories([], rules(tmp_path, {"GIT_TOKEN": "secret"}))
    repos.resolve(Repo(url="https://git.invalid/private/a.git"))
    for url in (
        "https://git.invalid/private/a.git",
        "https://git.invalid/privately.git",
        "https://git.invalid/x/private",
    ):
        address = repos.resolve(Repo(url=url)).remote
        assert address is not None
        assert rules(tmp_path, {"GIT_TOKEN": "secret"}).access(address).token == (
            "secret" if "/private/" in url else ""
        )


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ('token_file = "open"', "chmod 600"),
        ('token_file = "none"', "cannot be read"),
        ('token_file = "empty"', "empty"),
        ('token_env = "GIT_TOKEN"', "set GIT_TOKEN where"),
        ('token = "x"', "token"),
        ('token_env = "MUSTER_X"', "MUSTER_"),
        ('api_url = "http://git.invalid"', "allow_http"),
        ('api_url = "https://me:pw@git.invalid"', "api_url must"),
    ],
)
def test_wrong_entry_is_refused_with_a_sentence_and_without_the_secret(tmp_path: Path, entry: str, says: str) -> None:
    (tmp_path / "open").write_text("hidden-token")
    (tmp_path / "open").chmod(0o644)
    (tmp_path / "empty").touch(mode=0o600)
    hosts = host_rules(tmp_path, f'[hosts."git.invalid"]\n{entry}\n')
    with pytest.raises(InvalidMessage, match=says) as refused:
        AllowedRepositories([], hosts).resolve(Repo(url="https://git.invalid/a.git"))
    assert "hidden-token" not in str(refused.value)


def test_operator_can_refuse_all_hosts_that_are_not_listed(tmp_path: Path) -> None:
    hosts = GitHostRules(tmp_path / "none.toml", {}, unlisted="none")
    with pytest.raises(InvalidMessage, match=r"operator can add other\.invalid to git\.toml"):
        AllowedRepositories([], hosts).resolve(Repo(url="https://other.invalid/a.git"))
