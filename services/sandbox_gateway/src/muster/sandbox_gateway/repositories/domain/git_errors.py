"""Converts the error output of git about a remote repository to a refusal, or to an error that is tried again.

git has one exit code for nearly everything, so the cause is read from its text. git runs with `LC_ALL=C`, so the text
is English. A text that is not known is tried again, because the limits of the task end such a repetition.
"""

import re
from typing import Final

from muster.common.faults import Fault, InvalidMessage, Unavailable
from muster.sandbox_gateway.repositories.domain.addresses import URL_FIELD, RemoteAddress

_LONGEST = 400
_FSCK = r"fsck error|error in object"
_BROKEN_TRANSFER: Final = re.compile(
    r"early EOF|unexpected disconnect|RPC failed; curl (?!22)|No space left", re.IGNORECASE
)
"""Words after which a refusal of the received objects means nothing. `curl 22` is a status of HTTP, which follows."""
_REFUSALS: Final = (
    (
        r"could not read (Username|Password)|Authentication failed|returned error: 40[13]|(Permission|Access) denied",
        "{host} refuses access to {name}: {credential}",
    ),
    (
        r"Host key verification failed|No \S+ host key is known",
        "the SSH host key of {host} is not known; an operator can add it with `ssh-keyscan` to known_hosts_file",
    ),
    (
        r"Repository not found|repository '.*' not found|returned error: 404|could not be found|does not exist",
        "{host} has no repository {name}, or it is private: {credential}",
    ),
    (
        r"returned error: 30\d|redirect",
        "{host} redirects to another address, which is not followed; send the repository's present address",
    ),
    (
        r"SSL certificate|certificate verif|self.signed certificate",
        "the TLS certificate of {host} is not valid for this gateway; an operator can set SSL_CERT_FILE",
    ),
    (
        r"a git repository|not valid: |bad line length|protocol error",
        "{host} has no git repository at {name}",
    ),
    (
        rf"{_FSCK}|index-pack.*(corrupt|inflate)|unresolved deltas|bad object",
        "the repository {name} has objects that git refuses: {text}",
    ),
    (r"transport '.*' not allowed", "{host} asks git for a transport that is not allowed"),
)


def clone_error(said: str, address: RemoteAddress, *, has_credential: bool) -> Fault:
    """Return the fault for a failed git command. `said` is git's error output, without credentials."""
    text = told(said)
    credential = (
        "the credential in git.toml may not read it"
        if has_credential
        else "git.toml has no credential for it, which an operator can add"
    )
    # The name of a repository may contain a word that is searched for.
    words = said.replace(address.url, "the URL")
    is_broken = _BROKEN_TRANSFER.search(words) and not re.search(_FSCK, words)
    for pattern, sentence in () if is_broken else _REFUSALS:
        if re.search(pattern, words, re.IGNORECASE):
            filled = sentence.format(host=address.host, name=address.name, credential=credential, text=text)
            return InvalidMessage(filled, field=URL_FIELD)
    return Unavailable(f"{address.host} did not send the repository {address.name}: {text}")


def told(said: str) -> str:
    """Return the last lines of git's error output as one short line."""
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith("hint:")]
    text = "; ".join(lines[-3:]) or "git gave no reason"
    return "".join(letter if letter.isprintable() else " " for letter in text)[-_LONGEST:]
