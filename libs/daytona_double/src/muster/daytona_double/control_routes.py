"""The double's own routes below `/_double`, with which another process sets faults and reads counters."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Body, Response
from fastapi.responses import JSONResponse

from muster.daytona_double.faults import InjectedFault, as_fields
from muster.daytona_double.requests import State
from muster.daytona_double.sandbox_record import DoubleSandboxView

router = APIRouter(prefix="/_double")


@router.get("/faults")
async def read_faults(state: State) -> Response:
    """Return the faults in force, and how often each has struck."""
    return JSONResponse(
        {"in_force": [as_fields(fault) for fault in state.faults.in_force], "struck": state.faults.struck}
    )


@router.post("/faults", status_code=204)
async def set_fault(state: State, fault: Annotated[InjectedFault, Body()]) -> None:
    """Put a fault in force."""
    state.faults.set(fault)


@router.delete("/faults", status_code=204)
async def clear_faults(state: State, name: str | None = None) -> None:
    """End the faults of this name, or all."""
    state.faults.clear(name)


@router.get("/requests")
async def read_requests(state: State) -> Response:
    """Return how often each route was requested."""
    return JSONResponse(state.requests)


@router.get("/sandboxes")
async def read_sandboxes(state: State) -> Response:
    """Return the sandboxes that exist."""
    views = [asdict(DoubleSandboxView.of(record)) for record in state.sandboxes.records]
    return JSONResponse([{name: _plain(value) for name, value in view.items()} for view in views])


@router.post("/sandboxes/{id_or_name}/vanish", status_code=204)
async def vanish(state: State, id_or_name: str) -> None:
    """Remove a sandbox at once."""
    state.sandboxes.vanish(state.sandboxes.find(id_or_name))


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value
