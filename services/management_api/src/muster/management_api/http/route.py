"""The route class of every router: `APIRoute`, with the caller checked first, msgspec bodies and stored replies."""

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
    """Passes a JSON body on as bytes, which msgspec decodes into the contract."""

    async def json(self) -> msgspec.Raw:
        """Return the body, not yet decoded."""
        return msgspec.Raw(await self.body())


class ContractResponse(JSONResponse):
    """Sends the JSON text that a contract was serialized to (see `Message`)."""

    def render(self, content: str | None) -> bytes:
        """Encode as Starlette does; None is the reply of a route without a body."""
        return (content or "").encode()


class Route(APIRoute):
    """Finds the caller before it reads a body, decodes bodies with msgspec, and stores replies.

    FastAPI reads the body before it solves dependencies; a client without credentials must not make the API read one.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler (fastapi.tiangolo.com, "Custom Request and APIRoute class")."""
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
    """Return the router of a feature, for paths below `prefix`."""
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
