"""Converts git's short form of an SSH address, such as `git@github.com:a/b.git`, to an `ssh://` URL."""

import re

_SCP_FORM = re.compile(r"(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]*)@(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*):(?P<path>(?!//).+)")
_FORGE_USER = "git"
"""The SSH user of GitHub, GitLab, Gitea and other forges. A forge has no home directories."""


def ssh_url(address: str) -> str | None:
    """Return the `ssh://` URL of an address in the form `user@host:path`; None if the address has another form.

    A relative path is a path in the home directory of the SSH user, as for git itself, so `ada@host:x.git` becomes
    `ssh://ada@host/~/x.git`. For the user `git` it is a path of the forge: `ssh://git@github.com/a/b.git`.
    """
    if not (found := _SCP_FORM.fullmatch(address)):
        return None
    user, path = found["user"], found["path"]
    if not path.startswith(("/", "~")):
        path = path if user == _FORGE_USER else f"~/{path}"
    return f"ssh://{user}@{found['host']}/{path.removeprefix('/')}"
