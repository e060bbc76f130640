"""Keys and credentials for a NATS of one's own: `python -m muster.embedded.provision FOLDER`.

Run again, it changes no key: it brings `identity.conf` up to the table of roles. What is in the folder is secret.
"""

import sys
import tempfile
from pathlib import Path

import msgspec

from muster.common.identity.roles import Role
from muster.embedded.nats_authority import NatsAuthority
from muster.embedded.private_files import write_private

USAGE = "usage: python -m muster.embedded.provision FOLDER\n"


def provision(folder: Path) -> None:
    """Fill `folder`: `identity.conf` for every server, `creds/` for who connects, `authority.env` for the manager."""
    authority = NatsAuthority(folder)
    for role in set(Role) - {Role.AGENT}:  # agents' are made by the manager
        authority.credentials_file(role)
    with tempfile.TemporaryDirectory(dir=folder) as accounts:
        authority.settle(Path(accounts))
        tokens = {file.stem: file.read_text() for file in Path(accounts).iterdir()}
    identity = {
        "operator": authority.operator(),
        "system_account": authority.system_account,
        "resolver_preload": dict(sorted(tokens.items())),  # what a server has stored since is newer, and stays
    }
    write_private(folder / "identity.conf", msgspec.json.format(msgspec.json.encode(identity)))
    variables = {
        "MUSTER_NATS_ACCOUNT": authority.account,
        "MUSTER_NATS_AGENT_SEED": authority.signing(Role.AGENT).seed,
        "MUSTER_NATS_OPERATOR_SEED": authority.operator_signing.seed,
        "MUSTER_NATS_SYSTEM_CREDENTIALS": str(authority.revoker_file().absolute()),
    }
    lines = "".join(f"{name}={value}\n" for name, value in variables.items())
    write_private(folder / "authority.env", lines.encode())


def main(arguments: list[str]) -> int:
    """2 for wrong usage."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        sys.stderr.write(USAGE)
        return 2
    provision(Path(arguments[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
