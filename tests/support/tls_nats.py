"""A real NATS server that accepts only TLS connections."""

from pathlib import Path
from typing import override

import msgspec

from muster.embedded.nats_server import NatsServer
from tests.support.certificates import CertificateAuthority, Pair


class TlsNats(NatsServer):
    """Accepts only TLS connections, and with `asks_for_one` only from clients with a certificate of `authority`."""

    def __init__(self, home: Path, authority: CertificateAuthority, pair: Pair, *, asks_for_one: bool) -> None:
        super().__init__(home / "nats", password="secret", log=home / "nats.log")
        self._tls = {
            "cert_file": str(pair.cert),
            "key_file": str(pair.key),
            "ca_file": str(authority.file),
            "verify": asks_for_one,
        }

    @override
    async def prepare(self) -> None:
        await super().prepare()
        file = self._home / "nats.conf"
        file.write_bytes(msgspec.json.encode(msgspec.json.decode(file.read_bytes()) | {"tls": self._tls}))
