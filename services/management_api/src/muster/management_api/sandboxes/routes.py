"""The routes below `/api/v1/sandboxes`, which list, read and verify sandboxes, and look and act inside of them."""

import asyncio
from typing import Annotated

from fastapi import Body, Query

from muster.common.contracts.gateway import (
    ExecInSandbox,
    GetSandbox,
    ListSandboxes,
    SandboxOutput,
    SandboxPage,
    SandboxView,
    Verdict,
)
from muster.common.contracts.sandbox_bodies import FileUpload, FollowedCommand, SandboxCommand
from muster.common.contracts.sandbox_commands import CommandOutput, EndCommand, ReadCommand, StartCommand
from muster.common.contracts.sandbox_files import (
    DiffSandbox,
    FetchFile,
    FilePart,
    PutFile,
    ReadOutput,
    SandboxDiff,
    StoredPart,
    WorkerOutputPage,
)
from muster.management_api.access.domain.principals import Principal
from muster.management_api.access.routes.requires import requires
from muster.management_api.http.application_parts import Services
from muster.management_api.http.idempotency.requests import Idempotent
from muster.management_api.http.ids import CommandId, SandboxId
from muster.management_api.http.openapi import BODY, refuses
from muster.management_api.http.route import routes_of
from muster.management_api.sandboxes.domain import (
    CommandQuery,
    DiffQuery,
    FilePartQuery,
    FileQuery,
    OutputQuery,
    SandboxQuery,
    transfer_of,
)

Viewer = Annotated[Principal, requires("viewer", "sandboxes:read")]
Operator = Annotated[Principal, requires("operator", "sandboxes:write")]
OperatorReader = Annotated[Principal, requires("operator", "sandboxes:read")]
"""The output of a command is shown only to those who may run commands."""
_ANSWER_S = 10.0
"""Seconds for which the API waits for the gateway's reply after the longest time of the command."""
_CONTENT_S = 60.0
"""Seconds for which the API waits for the gateway, which may wait for the sandbox's provider."""
_FOLLOW_S = 10.0
_POLL_S = 0.5

router = routes_of("/api/v1/sandboxes", "sandboxes")


@router.get("", responses=refuses(422))
async def list_sandboxes(query: Annotated[SandboxQuery, Query()], _: Viewer, services: Services) -> SandboxPage:
    """List all sandboxes, or the sandboxes of one task, newest first. Existing sandboxes come before deleted ones."""
    return await services.ask(ListSandboxes(task_id=query.task_id))


@router.get("/{sandbox_id}", responses=refuses(404, 422))
async def get_sandbox(sandbox_id: SandboxId, _: Viewer, services: Services) -> SandboxView:
    """Return the state of one sandbox, as stored by its gateway."""
    return await services.ask(GetSandbox(sandbox_id=sandbox_id))


@router.get("/{sandbox_id}/verify", responses=refuses(404, 422))
async def verify_sandbox(sandbox_id: SandboxId, _: Viewer, services: Services) -> Verdict:
    """Verify a sandbox's whole log and return the faults found.

    In a correct log each event is stored once and in order, all events have one epoch, and no event follows the log's
    end. If the log is lost, this is a fault too.
    """
    return await services.verdict(sandbox_id)


@router.post("/{sandbox_id}/exec", responses=BODY | refuses(404))
async def exec_in_sandbox(
    sandbox_id: SandboxId,
    run: Annotated[SandboxCommand, Body(examples=[{"command": "git status", "timeout_s": 10}])],
    _: Operator,
    new_id: Idempotent,
    services: Services,
) -> SandboxOutput:
    """Run a shell command in the workspace of a sandbox, with the isolation and the limits of its worker.

    The reply contains the exit code and the last 256 KiB of the command's output. A command that exceeds `timeout_s` is
    killed, and its exit code is 124.
    """
    command = ExecInSandbox(sandbox_id=sandbox_id, key=new_id("req"), command=run.command, timeout_s=run.timeout_s)
    return await services.ask(command, timeout_s=run.timeout_s + _ANSWER_S)


@router.post("/{sandbox_id}/commands", status_code=202, responses=BODY | refuses(404))
async def start_command(
    sandbox_id: SandboxId,
    run: Annotated[FollowedCommand, Body(examples=[{"command": "make test", "timeout_s": 600}])],
    _: Operator,
    new_id: Idempotent,
    services: Services,
) -> CommandOutput:
    """Start a shell command in the workspace of a sandbox, and reply at once with its `command_id`.

    The command has the isolation and the limits of the worker, and is killed after `timeout_s`. At most 8 commands of a
    sandbox run at the same time; the status is 429 if more are started.
    """
    command = StartCommand(sandbox_id=sandbox_id, key=new_id("req"), command=run.command, timeout_s=run.timeout_s)
    return await services.ask(command, timeout_s=_CONTENT_S)


@router.get("/{sandbox_id}/commands/{command_id}", responses=refuses(404, 422))
async def read_command(
    sandbox_id: SandboxId,
    command_id: CommandId,
    query: Annotated[CommandQuery, Query()],
    _: OperatorReader,
    services: Services,
) -> CommandOutput:
    """Return output of a started command from `offset` on, at most 256 KiB of whole lines.

    After the end of the command, `running` is false and `exit_code` is set. With `follow`, a reply without output comes
    only after 10 s or at the end.
    """
    asked = ReadCommand(sandbox_id=sandbox_id, key=command_id, offset=query.offset)
    ends_at = asyncio.get_running_loop().time() + _FOLLOW_S
    found = await services.ask(asked)
    while query.follow and found.running and not found.text and asyncio.get_running_loop().time() < ends_at:
        await asyncio.sleep(_POLL_S)
        found = await services.ask(asked)
    return found


@router.delete("/{sandbox_id}/commands/{command_id}", responses=refuses(404, 422))
async def end_command(sandbox_id: SandboxId, command_id: CommandId, _: Operator, services: Services) -> CommandOutput:
    """Kill a started command with all its processes if it runs, and forget its output."""
    return await services.ask(EndCommand(sandbox_id=sandbox_id, key=command_id), timeout_s=_CONTENT_S)


@router.get("/{sandbox_id}/files", responses=refuses(404, 409, 422))
async def read_file_part(
    sandbox_id: SandboxId, query: Annotated[FilePartQuery, Query()], caller: Viewer, services: Services
) -> FilePart:
    """Return a part of a file of the workspace, in base64 and at most 512 KiB long.

    The part at offset 0 copies the file for the caller's transfer, so all parts belong to one version of the file. A
    file of several parts needs a `transfer_id`, which the caller chooses. A file over
    64 MiB is refused, and so is a path that leaves the workspace, leads over a link or names a device.
    """
    transfer_id = transfer_of(caller.name, query.transfer_id) if query.transfer_id else None
    asked = FetchFile(sandbox_id=sandbox_id, path=query.path, transfer_id=transfer_id, offset=query.offset)
    return await services.ask(asked, timeout_s=_CONTENT_S)


@router.put("/{sandbox_id}/files", responses=BODY | refuses(404))
async def write_file_part(
    sandbox_id: SandboxId,
    query: Annotated[FileQuery, Query()],
    part: Annotated[FileUpload, Body(examples=[{"transfer_id": "t1", "offset": 0, "body": "aGVsbG8K", "last": True}])],
    caller: Operator,
    services: Services,
) -> StoredPart:
    """Store a part of a file; with the part `last`, write the whole file into the workspace.

    The file is written completely or not at all. It replaces an existing file, and missing folders are made.
    """
    asked = PutFile(
        sandbox_id=sandbox_id,
        path=query.path,
        transfer_id=transfer_of(caller.name, part.transfer_id),
        offset=part.offset,
        body=part.body,
        last=part.last,
        sha256=part.sha256,
    )
    return await services.ask(asked, timeout_s=_CONTENT_S)


@router.get("/{sandbox_id}/logs", responses=refuses(404, 422))
async def read_output(
    sandbox_id: SandboxId, query: Annotated[OutputQuery, Query()], _: Viewer, services: Services
) -> WorkerOutputPage:
    """Return what the worker of a sandbox wrote to stdout and stderr, at most 256 KiB of whole lines."""
    asked = ReadOutput(sandbox_id=sandbox_id, offset=query.offset)
    ends_at = asyncio.get_running_loop().time() + _FOLLOW_S
    page = await services.ask(asked)
    # The provider does not announce output, so the API asks again.
    while query.follow and page.running and not page.text and asyncio.get_running_loop().time() < ends_at:
        await asyncio.sleep(_POLL_S)
        page = await services.ask(asked)
    return page


@router.get("/{sandbox_id}/diff", responses=refuses(404, 422))
async def diff_sandbox(
    sandbox_id: SandboxId, query: Annotated[DiffQuery, Query()], _: Viewer, services: Services
) -> SandboxDiff:
    """Return the changes of the workspace since the start of the attempt, as recorded after an event.

    Without `at`, the changes until the last recorded event. At most 1 MB of the diff is returned.
    """
    return await services.ask(DiffSandbox(sandbox_id=sandbox_id, at=query.at), timeout_s=_CONTENT_S)
