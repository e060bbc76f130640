"""The OpenAPI 3.1 document of the HTTP API, `docs/openapi.json`: `python -m tests.contract.openapi` writes it anew.

It is what a running API answers at `/openapi.json`: made from the operations, their handlers' signatures and the contracts.
"""

from types import SimpleNamespace
from typing import Any, cast

import msgspec

from muster.common.clock import utc_now
from muster.common.ids import new_id
from muster.management_api import service
from muster.management_api.routes.described import Described
from muster.management_api.routes.operation import Operation
from muster.management_api.settings import Settings
from tests.support.house import ROOT

WRITTEN = ROOT / "docs/openapi.json"


def operations() -> list[Operation]:
    """Everything that can be asked; their parts are wired, but to nothing."""
    nothing: Any = SimpleNamespace(now=utc_now, new_id=new_id, connected=None)
    urls: Any = {"nats_url": "nats://localhost", "database_url": "postgresql://localhost/muster"}
    settings = Settings(**urls, admin_key=cast("Any", "for-a-document-only"))
    asked = service.Rooms(nothing, nothing, nothing, feeds=settings.feeds_per_user).operations()
    return service.application([*asked, *service.Identity(nothing, nothing, settings).operations()]).operations


def written() -> bytes:
    """The document as it is kept."""
    return msgspec.json.format(msgspec.json.encode(Described(operations()).document(), order="deterministic")) + b"\n"


if __name__ == "__main__":
    WRITTEN.write_bytes(written())
