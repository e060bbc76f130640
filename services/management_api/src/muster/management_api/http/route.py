"""The class of all routes: verifies the caller first, decodes bodies with msgspec, and stores idempotent replies."""

from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute

from muster.management_api.access.routes.requires import requirements_of
from muster.management_api.http.idempotency.requests import Claim
from muster.management_api.http.openapi import EVERY
from muster.management_api.http.problems import refusal


class JsonRequest(Request):
    """A request whose JSON body stays bytes, so that msgspec and not FastAPI decodes the body."""

    async def json(self) -> msgspec.Raw:
        """Return the bytes of the request's JSON body without decoding them."""
        return msgspec.Raw(await self.body())


class ContractResponse(JSONResponse):
    """A response whose body is the JSON text of a contract, as serialized by `Message`."""

    def render(self, content: str | None) -> bytes:
        """Encode the JSON text as UTF-8. None, the reply of a route without a response body, becomes an empty body."""
        return (content or "").encode()


class Route(APIRoute):
    """A route that verifies the caller before the body is read, and stores replies to requests with `Idempotency-Key`.

    FastAPI reads the body before it calls dependencies. The caller is verified earlier, because a client without
    credentials must not make the API read a body.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler of this route, wrapped by the check of the caller and the storage of the reply."""
        handle = super().get_route_handler()
        requires = requirements_of(self)
        if self.methods == {"GET"}:
            return handle

        async def handler(request: Request) -> Response:
            request = JsonRequest(request.scope, request.receive)
            for each in requires:
                await each(request)
            try:
                response = await handle(request)
            except Exception as error:
                if claim := _claim(request):
                    await claim.settle(refusal(error))
                raise
            claim = _claim(request)
            return await claim.settle(response) if claim else response

        return handler


def _claim(request: Request) -> Claim | None:
    return getattr(request.state, "claim", None)


def routes_of(prefix: str, tag: str, responses: dict[int | str, dict[str, Any]] = EVERY) -> APIRouter:
    """Return a router for the routes of one feature, whose paths begin with `prefix`."""
    return APIRouter(
        prefix=prefix,
        tags=[tag],
        route_class=Route,
        responses=responses,
        default_response_class=ContractResponse,
        generate_unique_id_function=_operation_id,
    )


def _operation_id(route: APIRoute) -> str:
    return route.name
