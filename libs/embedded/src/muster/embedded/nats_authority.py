"""The NATS authority of a stack: generates keys once, stores the keys, and signs credentials with them.

The operator key signs three accounts: the system account, the account of services and agents, and the account of the
role `forensics`. The account of services and agents has one signing key for each role. The NATS server gives a client
the rights of the role whose key signed its credentials (`muster.common.nats_identity.roles`). Files are replaced
atomically, so a crash leaves the old or the new file.
"""

from collections.abc import Sequence
from pathlib import Path

from muster.common.clock import Clock, utc_now
from muster.common.faults import InvalidMessage
from muster.common.nats_identity.claims import (
    NatsClaims,
    account_token,
    operator_token,
    read_claims,
    scope,
    still_needed,
    user_token,
)
from muster.common.nats_identity.credentials import credentials_text
from muster.common.nats_identity.keys import Key, Kind, new_key
from muster.common.nats_identity.roles import ROLES, STREAM_READS, NatsRole, revoker
from muster.embedded.private_files import write_private

OPERATOR, ACCOUNT, SYSTEM, FORENSICS = "muster", "muster", "system", "forensics"
REVOKER = "revoker"


class NatsAuthority:
    """Stores the keys of a NATS server in `folder`, one file for each key.

    If the account's key is lost, a new key makes a new account, which cannot read the streams of the old account.
    """

    def __init__(self, folder: Path, *, now: Clock = utc_now) -> None:
        self._now = now
        self._keys, self._creds = folder / "keys", folder / "creds"
        for directory in (folder, self._keys, self._creds):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._operator, self.operator_signing = (
            self._key("operator", "operator"),
            self._key("operator-signing", "operator"),
        )
        self._account, self._system = self._key("account", "account"), self._key("system", "account")
        self._forensics = self._key("forensics", "account")
        self._revoker = self._key("system-revoker", "account")
        self._roles = {role: self._key(f"role-{role}", "account") for role in NatsRole}

    @property
    def account(self) -> str:
        """The public key of the NATS account of services and agents."""
        return self._account.public

    @property
    def system_account(self) -> str:
        """The public key of the NATS system account, which may update accounts on the server."""
        return self._system.public

    def signing(self, role: NatsRole) -> Key:
        """Return the key that signs the credentials of this role."""
        return self._roles[role]

    def operator(self) -> str:
        """Return the operator token for the configuration of the NATS server.

        The server accepts only accounts that this operator has signed.
        """
        return operator_token(
            self._operator,
            OPERATOR,
            signer=self.operator_signing,
            system_account=self.system_account,
            at=self._seconds(),
        )

    def write_accounts(self, accounts: Path) -> None:
        """Write the NATS accounts with the current roles into the server's directory; keep stored revocations.

        Call this before the NATS server starts.
        """
        accounts.mkdir(parents=True, exist_ok=True, mode=0o700)
        scopes = {role: scope(key, role, ROLES[role]) for role, key in self._roles.items()}
        readers = [scopes.pop(NatsRole.FORENSICS)]
        self._write_account(accounts, self._account, ACCOUNT, list(scopes.values()), stores=True, exports=STREAM_READS)
        self._write_account(
            accounts, self._forensics, FORENSICS, readers, stores=False, imports=STREAM_READS, exporter=self.account
        )
        revokers = [scope(self._revoker, REVOKER, revoker(self.account))]
        self._write_account(accounts, self._system, SYSTEM, revokers, stores=False)

    def credentials(self, role: NatsRole, *, name: str | None = None, ttl_s: float | None = None) -> str:
        """Return the text of a credentials file with the rights of `role`.

        The credentials are valid for `ttl_s` seconds, or without limit if `ttl_s` is None.
        """
        account = self._forensics.public if role is NatsRole.FORENSICS else self.account
        return self._issue(self._roles[role], account, name or role, ttl_s)

    def credentials_file(self, role: NatsRole) -> Path:
        """Write credentials that are valid until the role's key is replaced; return the path of the file."""
        return self._write(role, self.credentials(role))

    def revoker_file(self) -> Path:
        """Write credentials that may update accounts on the NATS server; return the path of the file."""
        return self._write(REVOKER, self._issue(self._revoker, self.system_account, REVOKER, None))

    def _write_account(
        self,
        accounts: Path,
        key: Key,
        name: str,
        scopes: list[dict[str, object]],
        *,
        stores: bool,
        exports: Sequence[str] = (),
        imports: Sequence[str] = (),
        exporter: str = "",
    ) -> None:
        file, now = accounts / f"{key.public}.jwt", self._seconds()
        before = _claims(file)
        revoked = still_needed(before.revocations, at=now) if before else {}
        at = max(now, before.iat + 1) if before else now
        token = account_token(
            self.operator_signing,
            key.public,
            name,
            scopes=scopes,
            stores=stores,
            revoked=revoked,
            at=at,
            exports=exports,
            imports=imports,
            exporter=exporter,
        )
        wanted = read_claims(token)
        if before is None or (before.nats, before.iss) != (wanted.nats, wanted.iss):
            write_private(file, token.encode())

    def _issue(self, signing: Key, account: str, name: str, ttl_s: float | None) -> str:
        user = new_key("user")
        token = user_token(signing, account, user.public, name, at=self._seconds(), ttl_s=ttl_s)
        return credentials_text(token, user)

    def _write(self, name: str, text: str) -> Path:
        file = self._creds / f"{name}.creds"
        write_private(file, text.encode())
        return file

    def _key(self, name: str, kind: Kind) -> Key:
        """Return the stored key with this name; generate and store a key if there is none."""
        file = self._keys / f"{name}.nk"
        if not file.exists():
            write_private(file, new_key(kind).seed.encode())
        return Key(file.read_text().strip())

    def _seconds(self) -> int:
        return int(self._now().timestamp())


def _claims(file: Path) -> NatsClaims | None:
    try:
        return read_claims(file.read_text())
    except (FileNotFoundError, InvalidMessage):  # The caller writes the account's file.
        return None
