"""Writes keys and credentials for an existing NATS server: `python -m muster.embedded.provision FOLDER`.

A second run keeps all keys, and updates `identity.conf` to the current roles. All files in the folder are secret.
"""

import sys
import tempfile
from pathlib import Path

import msgspec

from muster.common.nats_identity.roles import NatsRole
from muster.embedded.nats_authority import NatsAuthority
from muster.embedded.private_files import write_private

USAGE = "usage: python -m muster.embedded.provision FOLDER\n"


def provision(folder: Path) -> None:
    """Write `identity.conf` for NATS servers, `creds/` for their clients, and `authority.env` for the agent manager."""
    authority = NatsAuthority(folder)
    for role in set(NatsRole) - {NatsRole.AGENT}:  # The agent manager itself issues the agents' credentials.
        authority.credentials_file(role)
    with tempfile.TemporaryDirectory(dir=folder) as accounts:
        authority.write_accounts(Path(accounts))
        tokens = {file.stem: file.read_text() for file in Path(accounts).iterdir()}
    identity = {
        "operator": authority.operator(),
        "system_account": authority.system_account,
        # A NATS server that has stored a newer version of an account keeps that version.
        "resolver_preload": dict(sorted(tokens.items())),
    }
    write_private(folder / "identity.conf", msgspec.json.format(msgspec.json.encode(identity)))
    variables = {
        "MUSTER_NATS_ACCOUNT": authority.account,
        "MUSTER_NATS_AGENT_SEED": authority.signing(NatsRole.AGENT).seed,
        "MUSTER_NATS_OPERATOR_SEED": authority.operator_signing.seed,
        "MUSTER_NATS_SYSTEM_CREDENTIALS": str(authority.revoker_file().absolute()),
    }
    lines = "".join(f"{name}={value}\n" for name, value in variables.items())
    write_private(folder / "authority.env", lines.encode())


def main(arguments: list[str]) -> int:
    """Write keys and credentials to the folder in the arguments; return the exit code, 2 for wrong arguments."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        sys.stderr.write(USAGE)
        return 2
    provision(Path(arguments[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
