"""Refuses a request that has a single-value header twice, because a proxy and the API may use different values."""

from starlette.types import ASGIApp, Receive, Scope, Send

from muster.management_api.http.problems import Malformed, refusal

ONCE = (
    *("Authorization", "Content-Length", "Content-Type", "Host"),
    *("Idempotency-Key", "If-Match", "Last-Event-ID", "Transfer-Encoding"),
)
_SPELLED = {name.lower().encode(): name for name in ONCE}


class RepeatedHeaders:
    """Middleware that answers 400 to a request that has one of the headers in `ONCE` more than once."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, or answer 400 if the request repeats a header that `ONCE` names."""
        names = [name for name, _ in scope["headers"]]
        if len(set(names)) < len(names):
            for name, spelled in _SPELLED.items():
                if names.count(name) > 1:
                    fault = Malformed(
                        f"the request has {names.count(name)} headers {spelled}; send one {spelled}", field=spelled
                    )
                    await refusal(fault)(scope, receive, send)
                    return
        await self._app(scope, receive, send)
