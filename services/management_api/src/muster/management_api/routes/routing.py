"""The application: FastAPI's, with the operations as its routes."""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from fastapi import FastAPI
from starlette.routing import BaseRoute, Match

from muster.common.bus.service import VERSION
from muster.common.faults import NotFound
from muster.management_api.domain.paths import Paths
from muster.management_api.routes.answers import method_not_allowed, refusal
from muster.management_api.routes.operation import Operation

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Operations(BaseRoute):
    """All operations as one route."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self._paths = Paths[dict[str, Operation]]()
        for operation in operations:
            self._paths.setdefault(operation.path, {})[operation.method] = operation

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Wrong methods match too: the path is nobody else's, and the answer names the right ones."""
        found = self._paths.find(scope["path"])
        if found is None:
            return Match.NONE, {"methods": {}, "path_params": {}}
        return Match.FULL, {"methods": found[0], "path_params": found[1]}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        methods: dict[str, Operation] = scope["methods"]
        operation = methods.get(scope["method"])
        if operation is None:
            await method_not_allowed(scope["method"], methods)(scope, receive, send)
            return
        scope["route"] = operation
        await operation(scope, receive, send)


class Api(FastAPI):
    """The application inside the door. The document and its page are operations like all others."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        super().__init__(
            title="Muster", version=VERSION, openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False
        )
        self.operations = list(operations)
        self._route = Operations(self.operations)
        self.router.routes.append(self._route)
        self.router.default = _nothing_here

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Straight to the operation; FastAPI is asked for what else may be mounted."""
        match, found = self._route.matches(scope)
        if match is Match.NONE:
            await self.router(scope, receive, send)
            return
        scope.update(found)
        await self._route.handle(scope, receive, send)

    def build_middleware_stack(self) -> App:
        """None: errors, headers and limits are the door's, which also answers what goes wrong in between."""
        return self.router


async def _nothing_here(scope: Scope, receive: Receive, send: Send) -> None:
    await refusal(NotFound("there is nothing at this path"))(scope, receive, send)
