"""Which repositories the provider `local` may clone."""

from pathlib import Path

import pytest

from muster.common.contracts.task_spec import Repo
from muster.common.faults import InvalidMessage
from muster.sandbox_gateway.providers.local.repositories import AllowedRepositories


def test_only_repositories_below_a_root_or_with_a_network_may_be_cloned(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "repo a" / ".git").mkdir(parents=True)
    (root / "bare" / "objects").mkdir(parents=True)
    (root / "bare" / "HEAD").touch()
    (root / "folder").mkdir()
    outside.mkdir()
    (root / "link").symlink_to(outside)
    closed, open_ = AllowedRepositories([root], network="none"), AllowedRepositories([root], network="host")
    url = (root / "repo a").as_uri()
    assert closed.resolve(Repo(url=url, ref="main")).path == (root / "repo a").resolve()
    assert closed.resolve(Repo(url=(root / "bare").as_uri())).path == (root / "bare").resolve()
    assert open_.resolve(Repo(url="https://git.invalid/a.git")).path is None
    assert open_.resolve(Repo(url="ssh://git@git.invalid/a.git")).path is None
    refused = [
        *(
            (closed, "https://git.invalid/a.git", None),
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
def test_short_ssh_address_is_cloned_by_its_url(given: str, cloned: str) -> None:
    assert AllowedRepositories([], network="host").resolve(Repo(url=given)).url == cloned


@pytest.mark.parametrize("given", ["ext@host::sh -c x", "-o@host:path", "me@-oProxy:path", "me@host://x", "host:path"])
def test_address_that_git_could_take_for_an_option_is_refused(given: str) -> None:
    with pytest.raises(InvalidMessage):
        AllowedRepositories([], network="host").resolve(Repo(url=given))


def test_refusal_of_a_folder_outside_the_roots_names_the_command_that_allows_it(tmp_path: Path) -> None:
    (tmp_path / "a repo").mkdir()

    with pytest.raises(InvalidMessage, match=f"muster up --repo-root '{tmp_path}/a repo'"):
        AllowedRepositories([], network="none").resolve(Repo(url=(tmp_path / "a repo").as_uri()))
