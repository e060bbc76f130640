"""Key pairs of NATS identities (nkeys: Ed25519; the first letter of a key shows its kind)."""

import hashlib
import hmac
import os
from collections.abc import Callable
from typing import Any, Literal

import nkeys  # pyright: ignore[reportMissingTypeStubs]

from muster.common.faults import InvalidMessage

Kind = Literal["operator", "account", "user"]
Entropy = Callable[[int], bytes]

_nkeys: Any = nkeys  # The package nkeys has no type annotations.
_SEED_BYTES = 32
_PREFIX: dict[Kind, int] = {
    "operator": _nkeys.PREFIX_BYTE_OPERATOR,
    "account": _nkeys.PREFIX_BYTE_ACCOUNT,
    "user": _nkeys.PREFIX_BYTE_USER,
}


class Key:
    """A key pair that can sign. `public` identifies the key. `seed` is the secret and never appears in `repr`."""

    def __init__(self, seed: str) -> None:
        try:
            self._pair = _nkeys.from_seed(seed.encode())
            self.public: str = self._pair.public_key.decode()
        except (ValueError, _nkeys.NkeysError) as error:
            raise InvalidMessage(f"the text is no NATS seed ({type(error).__name__})") from None
        self.seed = seed

    def __repr__(self) -> str:
        return f"Key({self.public})"

    def sign(self, body: bytes) -> bytes:
        """Return the signature of `body`."""
        return self._pair.sign(body)


def new_key(kind: Kind, *, entropy: Entropy = os.urandom) -> Key:
    """Return a new random key."""
    return _key(kind, entropy(_SEED_BYTES))


def derived_key(kind: Kind, secret: Key, label: str) -> Key:
    """Return a key derived from `secret` and `label`. The same inputs always give the same key."""
    return _key(kind, hmac.digest(secret.seed.encode(), f"muster {kind} {label}".encode(), hashlib.sha256))


def _key(kind: Kind, raw: bytes) -> Key:
    return Key(_nkeys.encode_seed(raw, _PREFIX[kind]).decode())
