"""Who is who on a stack's own NATS server: its keys, made once and kept, and the credentials made from them.

The operator vouches for two accounts: the system's, and the one that services and agents live in. In that one each
role has a signing key, so that no credentials can carry more than their role's rights (`muster.common.identity.roles`).
"""

from pathlib import Path

from muster.common.clock import Clock, utc_now
from muster.common.faults import InvalidMessage
from muster.common.identity.claims import (
    NatsClaims,
    account_token,
    operator_token,
    read_claims,
    scope,
    still_needed,
    user_token,
)
from muster.common.identity.credentials import credentials_text
from muster.common.identity.keys import Key, Kind, new_key
from muster.common.identity.roles import ROLES, Role, revoker
from muster.embedded.private_files import write_private

OPERATOR, ACCOUNT, SYSTEM = "muster", "muster", "system"
REVOKER = "revoker"


class NatsAuthority:
    """The keys below `folder`, one file each. Without the account's, what was stored in its streams is out of reach."""

    def __init__(self, folder: Path, *, now: Clock = utc_now) -> None:
        self._now = now
        self._keys, self._creds = folder / "keys", folder / "creds"
        for directory in (folder, self._keys, self._creds):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._operator, self.operator_signing = (
            self._kept("operator", "operator"),
            self._kept("operator-signing", "operator"),
        )
        self._account, self._system = self._kept("account", "account"), self._kept("system", "account")
        self._revoker = self._kept("system-revoker", "account")
        self._roles = {role: self._kept(f"role-{role}", "account") for role in Role}

    @property
    def account(self) -> str:
        """The public key of the account that services and agents live in."""
        return self._account.public

    @property
    def system_account(self) -> str:
        """The public key of the server's own account."""
        return self._system.public

    def signing(self, role: Role) -> Key:
        """What the credentials of this role are signed with."""
        return self._roles[role]

    def operator(self) -> str:
        """For the server's configuration: it believes whom this operator vouches for, and nobody else."""
        return operator_token(
            self._operator,
            OPERATOR,
            signer=self.operator_signing,
            system_account=self.system_account,
            at=self._seconds(),
        )

    def settle(self, accounts: Path) -> None:
        """Bring the server's directory of accounts up to the table of roles, before it starts. Revocations stay."""
        accounts.mkdir(parents=True, exist_ok=True, mode=0o700)
        roles = [scope(key, role, ROLES[role]) for role, key in self._roles.items()]
        self._settle(accounts, self._account, ACCOUNT, roles, stores=True)
        revokers = [scope(self._revoker, REVOKER, revoker(self.account))]
        self._settle(accounts, self._system, SYSTEM, revokers, stores=False)

    def credentials(self, role: Role, *, name: str | None = None, ttl_s: float | None = None) -> str:
        """The text of a creds file with the rights of `role`."""
        return self._minted(self._roles[role], self.account, name or role, ttl_s)

    def credentials_file(self, role: Role) -> Path:
        """One that does not expire, newly written; whoever can read it is that role, until its signing key is gone."""
        return self._written(role, self.credentials(role))

    def revoker_file(self) -> Path:
        """The same for who updates accounts."""
        return self._written(REVOKER, self._minted(self._revoker, self.system_account, REVOKER, None))

    def _settle(self, accounts: Path, key: Key, name: str, scopes: list[dict[str, object]], *, stores: bool) -> None:
        file, now = accounts / f"{key.public}.jwt", self._seconds()
        before = _claims(file)
        revoked = still_needed(before.revocations, at=now) if before else {}
        at = max(now, before.iat + 1) if before else now
        token = account_token(
            self.operator_signing, key.public, name, scopes=scopes, stores=stores, revoked=revoked, at=at
        )
        wanted = read_claims(token)
        if before is None or (before.nats, before.iss) != (wanted.nats, wanted.iss):
            write_private(file, token.encode())

    def _minted(self, signing: Key, account: str, name: str, ttl_s: float | None) -> str:
        user = new_key("user")
        token = user_token(signing, account, user.public, name, at=self._seconds(), ttl_s=ttl_s)
        return credentials_text(token, user)

    def _written(self, name: str, text: str) -> Path:
        file = self._creds / f"{name}.creds"
        write_private(file, text.encode())
        return file

    def _kept(self, name: str, kind: Kind) -> Key:
        file = self._keys / f"{name}.nk"
        if not file.exists():
            write_private(file, new_key(kind).seed.encode())
        return Key(file.read_text().strip())

    def _seconds(self) -> int:
        return int(self._now().timestamp())


def _claims(file: Path) -> NatsClaims | None:
    try:
        return read_claims(file.read_text())
    except (FileNotFoundError, InvalidMessage):  # a torn one is written anew
        return None
