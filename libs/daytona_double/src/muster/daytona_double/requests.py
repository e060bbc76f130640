"""What every route needs: the state of the double, the body of a request, and the answer as Daytona encodes it."""

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol, Self

from fastapi import Depends, Request
from fastapi.requests import HTTPConnection
from fastapi.responses import Response
from pydantic import ValidationError

from muster.daytona_double.double_settings import DoubleSettings
from muster.daytona_double.faults import Faults
from muster.daytona_double.refusals import bad_request
from muster.daytona_double.sandbox_record import DoubleSandbox
from muster.daytona_double.sandbox_table import SandboxTable
from muster.daytona_double.snapshot_table import SnapshotTable


@dataclass
class DoubleState:
    """All that the routes of a double share."""

    settings: DoubleSettings
    faults: Faults
    sandboxes: SandboxTable
    snapshots: SnapshotTable
    api_url: str
    api_key: str
    background: Callable[[Coroutine[Any, Any, None]], object]
    """Runs a coroutine that ends when the processes of the sandboxes end."""
    forever: Callable[[Coroutine[Any, Any, None]], object]
    """Runs a coroutine until the double ends."""
    requests: dict[str, int] = field(default_factory=dict[str, int])
    """How often each route was requested, by method and path with its placeholders."""


class GeneratedModel(Protocol):
    """A model of the SDK's generated clients."""

    def to_json(self) -> str:
        """Encode the model with the names of the wire."""
        ...

    @classmethod
    def from_dict(cls, obj: dict[str, Any] | None) -> Self | None:
        """Make a model from decoded JSON with the names of the wire."""
        ...


def state_of(connection: HTTPConnection) -> DoubleState:
    """Return the state of the double that serves this connection."""
    return connection.app.state.double


State = Annotated[DoubleState, Depends(state_of)]


def answer(model: GeneratedModel, status: int = 200) -> Response:
    """Answer with a model of the generated clients."""
    return Response(model.to_json(), status, media_type="application/json")


def answers(models: list[Any]) -> Response:
    """Answer with a list of models of the generated clients."""
    return Response("[" + ",".join(model.to_json() for model in models) + "]", media_type="application/json")


def body_of[M: GeneratedModel](model: type[M]) -> Callable[[Request], Awaitable[M]]:
    """Return a dependency that reads the body as a model of the generated clients; a wrong body is refused with 400."""

    async def read(request: Request) -> M:
        try:
            decoded: dict[str, Any] = await request.json() if await request.body() else {}
            made = model.from_dict(decoded)
        except (ValueError, ValidationError, AttributeError) as error:
            raise bad_request(f"invalid request body: {error}") from error
        assert made is not None
        return made

    return read


def named_sandbox(state: State, id_or_name: str) -> DoubleSandbox:
    """Return the sandbox whose id or name is in the path."""
    return state.sandboxes.find(id_or_name)


Named = Annotated[DoubleSandbox, Depends(named_sandbox)]
