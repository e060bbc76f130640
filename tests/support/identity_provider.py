"""A small OIDC identity provider over real HTTP, with several kinds of keys, valid and invalid tokens, and outages."""

import base64
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from muster.common.clock import utc_now

AUDIENCE = "muster"


class IdentityProvider:
    """Signs tokens, publishes its public keys over HTTP, and counts the requests for the keys."""

    def __init__(self, url: str) -> None:
        self.issuer = url
        self.asked = 0
        self.away = False
        self._keys: dict[str, tuple[str, Any]] = {}
        self.add("rsa", "RS256", rsa.generate_private_key(65537, 2048))
        self.add("ec", "ES256", ec.generate_private_key(ec.SECP256R1()))
        self.add("ed", "EdDSA", ed25519.Ed25519PrivateKey.generate())

    def add(self, kid: str, algorithm: str, key: Any) -> None:
        self._keys[kid] = (algorithm, key)

    def withdraw(self, kid: str) -> None:
        del self._keys[kid]

    def token(self, kid: str = "rsa", *, key: Any = None, alg: str = "", **claims: Any) -> str:
        """Return a token signed with the key `kid`, or with `key`; a claim with the value None is omitted."""
        now = utc_now().timestamp()
        told = {"iss": self.issuer, "aud": AUDIENCE, "sub": "ann", "iat": now, "exp": now + 600, **claims}
        algorithm, own = self._keys.get(kid, ("RS256", None))
        payload = {name: value for name, value in told.items() if value is not None}
        return jwt.encode(payload, key or own, algorithm=alg or algorithm, headers={"kid": kid})

    def public_pem(self, kid: str) -> bytes:
        return self._keys[kid][1].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def unsigned(self, **claims: Any) -> str:
        """Return a token without a signature (`alg` none), which the API must refuse."""
        parts = self.token(**claims).split(".")
        header = base64.urlsafe_b64encode(b'{"alg":"none","kid":"rsa","typ":"JWT"}').decode().rstrip("=")
        return f"{header}.{parts[1]}."

    def published(self) -> bytes:
        keys: list[dict[str, Any]] = []
        for kid, (algorithm, key) in self._keys.items():
            kind: Any = jwt.get_algorithm_by_name(algorithm)
            keys.append({**kind.to_jwk(key.public_key(), as_dict=True), "kid": kid, "alg": algorithm, "use": "sig"})
        # Other identity providers also publish keys that Muster cannot use.
        keys += [{"kty": "oct", "kid": "shared", "k": "c2VjcmV0"}, {"kty": "new", "kid": "later"}]
        return msgspec.json.encode({"keys": keys})


@contextmanager
def identity_provider() -> Generator[IdentityProvider]:
    """Run an identity provider until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            provider.asked += self.path == "/jwks"
            documents = {
                "/jwks": provider.published(),
                "/.well-known/openid-configuration": msgspec.json.encode(
                    {"issuer": provider.issuer, "jwks_uri": f"{provider.issuer}/jwks"}
                ),
            }
            body = documents.get(self.path)
            self.send_response(503 if provider.away else 200 if body else 404)
            self.end_headers()
            self.wfile.write(body or b"" if not provider.away else b"")

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its own name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        provider = IdentityProvider(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield provider
        finally:
            server.shutdown()
            thread.join()
