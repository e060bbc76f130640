"""Which IP addresses are public, and what git's error output means."""

import pytest

from muster.common.contracts.task_spec import Repo
from muster.common.faults import Fault, Forbidden, InvalidMessage, Unavailable
from muster.sandbox_gateway.repositories.domain.addresses import parsed, private_among, remote_address
from muster.sandbox_gateway.repositories.domain.deliveries import push_error
from muster.sandbox_gateway.repositories.domain.git_errors import clone_error
from muster.sandbox_gateway.repositories.domain.remote_refs import RemoteRefs

_CUT = (
    "error: RPC failed; curl 18 transfer closed with 2100516 bytes remaining to read\n"
    "error: 17775 bytes of body are still expected\nfetch-pack: unexpected disconnect while reading sideband packet\n"
    "fatal: early EOF\nfatal: fetch-pack: invalid index-pack output\n"
)
_ADDRESS = remote_address(parsed(Repo(url="https://git.invalid/a/b.git").url))


@pytest.mark.parametrize(
    "private",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
        *("224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0", "fd00::1", "ff02::1"),
        *("::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0::1"),
    ],
)
def test_address_that_is_not_public_is_found(private: str) -> None:
    assert private_among(["8.8.8.8", "2606:4700::1111", private]) == private
    assert private_among(["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808"]) is None


@pytest.mark.parametrize(
    ("said", "kind", "says"),
    [
        (
            "fatal: could not read Username for 'https://x': terminal prompts disabled",
            InvalidMessage,
            "operator can add",
        ),
        (
            "remote: Repository not found.\nfatal: repository 'https://x/' not found",
            InvalidMessage,
            "has no repository",
        ),
        ("error: The requested URL returned error: 403", InvalidMessage, "refuses access"),
        ("error: The requested URL returned error: 503", Unavailable, "503"),
        ("error: The requested URL returned error: 429", Unavailable, "429"),
        ("error: The requested URL returned error: 301", InvalidMessage, "redirects"),
        ("fatal: unable to access 'https://x/': Failed to connect to x port 443: Connection refused", Unavailable, "x"),
        ("fatal: unable to access 'https://x/': SSL certificate problem: expired", InvalidMessage, "certificate"),
        ("No ED25519 host key is known for x.\nHost key verification failed.", InvalidMessage, "ssh-keyscan"),
        ("git@x: Permission denied (publickey).\nfatal: Could not read from remote", InvalidMessage, "refuses access"),
        ("error: RPC failed; curl 18 transfer closed\nfatal: early EOF", Unavailable, "early EOF"),
        ("fatal: https://x/info/refs not valid: is this a git repository?", InvalidMessage, "no git repository"),
        (_CUT, Unavailable, "early EOF"),
        (
            "fatal: write error: No space left on device\nfatal: fetch-pack: invalid index-pack output",
            Unavailable,
            "left",
        ),
        ("error: RPC failed; HTTP 403 curl 22 The requested URL returned error: 403", InvalidMessage, "refuses access"),
        (
            "error: object 12: hasDotgit\nfatal: fsck error in packed object\nfatal: early EOF",
            InvalidMessage,
            "objects",
        ),
        ("fatal: unable to access 'https://git.invalid/a/redirect.git/': Connection refused", Unavailable, "refused"),
        ("", Unavailable, "no reason"),
    ],
)
def test_error_of_git_is_a_refusal_or_is_tried_again(said: str, kind: type[Fault], says: str) -> None:
    address = remote_address(parsed("https://git.invalid/a/redirect.git")) if "redirect.git" in said else _ADDRESS
    fault = clone_error(said, address, has_credential=False)
    assert type(fault) is kind
    assert says in str(fault)
    assert fault.field == ("$.repo.url" if kind is InvalidMessage else None)


@pytest.mark.parametrize(
    "path",
    [
        *(
            "team/../secret/repo",
            "team/%2e%2e/secret/repo",
            "team%2F..%2Fsecret",
            "team/..",
            "team/./a",
            "team//a",
            "/a",
        ),
        *("team/..;x=1/secret", "team\\..\\secret"),
    ],
)
def test_path_that_a_server_reads_as_another_path_is_refused(path: str) -> None:
    with pytest.raises(InvalidMessage, match="must not contain") as refused:
        remote_address(parsed(f"https://git.invalid/{path}"))
    assert refused.value.field == "$.repo.url"


@pytest.mark.parametrize("path", ["a", "a/b.git/", "~ada/.dotfiles", "a/..b/c...", "a;b/c"])
def test_usual_path_is_an_address(path: str) -> None:
    assert remote_address(parsed(f"https://git.invalid/{path}")).path == f"/{path}"


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("Internal Server Error", Unavailable),
        ("failed to update ref", Unavailable),
        ("protected branch hook declined", Forbidden),
        ("refusing to allow an OAuth App to create or update workflow", Forbidden),
    ],
)
def test_rejected_push_is_tried_again_if_the_forge_has_a_fault(reason: str, kind: type[Fault]) -> None:
    said = f" ! [remote rejected] abc -> b ({reason})\nerror: failed to push some refs to 'https://git.invalid/a/b.git'"
    assert type(push_error(said, _ADDRESS, "b")) is kind


def test_default_branch_is_read_from_what_the_host_says() -> None:
    listed = "1111\tHEAD\n1111\trefs/heads/trunk\n2222\trefs/heads/main\n3333\trefs/tags/v1\n1111\trefs/tags/v1^{}\n"
    assert RemoteRefs.parsed(f"ref: refs/heads/main\tHEAD\n{listed}".encode()).head == "refs/heads/main"
    found = RemoteRefs.parsed(listed.encode())
    assert found.head == "refs/heads/trunk"
    assert found.commits == {"refs/heads/trunk": "1111", "refs/heads/main": "2222", "refs/tags/v1": "3333"}
