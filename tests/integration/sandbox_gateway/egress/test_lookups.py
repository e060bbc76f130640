"""Names that no server answers take few threads of the proxy's lookups."""

import asyncio
import socket
import threading
from typing import Any

import pytest

from muster.sandbox_gateway.egress.adapters import internet
from muster.sandbox_gateway.egress.adapters.internet import HostFailed, SystemInternet


async def test_lookups_of_one_name_share_a_thread_and_those_that_hang_leave_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    release, started = threading.Event(), list[str]()

    def lookup(host: str, *_: Any, **__: Any) -> list[Any]:
        started.append(host)
        if host.startswith("silent"):
            release.wait(20)
            raise socket.gaierror
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("192.0.2.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    monkeypatch.setattr(internet, "RESOLVE_S", 0.2)
    system = SystemInternet()
    try:
        hanging = [system.resolve(f"silent{number // 8}.example") for number in range(80)]
        failed = await asyncio.gather(*hanging, return_exceptions=True)
        assert all(isinstance(one, HostFailed) for one in failed)
        assert len(started) == 10
        assert [str(one) for one in await system.resolve("fine.example")] == ["192.0.2.1"]
    finally:
        release.set()
        system.close()
