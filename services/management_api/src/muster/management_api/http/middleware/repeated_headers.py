"""Refuses a request that has two of a header where one is allowed: a proxy may have obeyed the other one."""

from starlette.types import ASGIApp, Receive, Scope, Send

from muster.management_api.http.problems import Malformed, refusal

ONCE = (
    *("Authorization", "Content-Length", "Content-Type", "Host"),
    *("Idempotency-Key", "If-Match", "Last-Event-ID", "Transfer-Encoding"),
)
_SPELLED = {name.lower().encode(): name for name in ONCE}


class RepeatedHeaders:
    """Refuses a request that has a header of `ONCE` twice (400)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        names = [name for name, _ in scope["headers"]]
        if len(set(names)) < len(names):
            for name, spelled in _SPELLED.items():
                if names.count(name) > 1:
                    fault = Malformed(f"send one {spelled}; there are {names.count(name)}", field=spelled)
                    await refusal(fault)(scope, receive, send)
                    return
        await self._app(scope, receive, send)
