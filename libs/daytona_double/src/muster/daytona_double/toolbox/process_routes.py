"""Routes that run commands: one command and its result, or a session of commands."""

import asyncio
import secrets
import signal
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from daytona_toolbox_api_client import (
    CodeRunRequest,
    CodeRunResponse,
    Command,
    CreateSessionRequest,
    ExecuteRequest,
    ExecuteResponse,
    Session,
    SessionCommandLogsResponse,
    SessionExecuteRequest,
    SessionExecuteResponse,
    SessionSendInputRequest,
)
from fastapi import APIRouter, Depends, Response

from muster.daytona_double.admission import Started
from muster.daytona_double.processes import MARK, signal_group
from muster.daytona_double.refusals import daemon
from muster.daytona_double.requests import DoubleState, State, answer, answers, body_of
from muster.daytona_double.sandbox_record import DoubleSandbox
from muster.daytona_double.session_shell import STDERR, STDOUT, SessionShell, ShellCommand

router = APIRouter(prefix="/{sandbox_id}/process")
DEADLINE_S = 360
"""How long a command without a timeout may run."""
INTERPRETERS = {"python": ("python3", "-c"), "javascript": ("node", "-e"), "typescript": ("npx", "ts-node", "-e")}


def environment(record: DoubleSandbox, state: DoubleState, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment variables of a process in a sandbox."""
    return {
        "PATH": state.settings.path,
        "HOME": str(record.home),
        "TMPDIR": str(record.temporary),
        "USER": record.settings.user,
        "LANG": "C.UTF-8",
        "SHELL": "/bin/bash",
        "DAYTONA_SANDBOX_ID": record.id,
        **record.settings.env,
        **(extra or {}),
        MARK: state.sandboxes.mark(record),
    }


@router.post("/execute")
async def execute(
    record: Started, state: State, body: Annotated[ExecuteRequest, Depends(body_of(ExecuteRequest))]
) -> Response:
    """Run a command and answer with its exit code and output. Raises `Refusal` (408) at the timeout."""
    cwd = record.workdir / (body.cwd or "")
    argv = ("/bin/bash", "-c", body.command)
    code, output = await _run(argv, cwd, environment(record, state, body.envs), body.timeout or DEADLINE_S)
    return answer(ExecuteResponse(exit_code=code, result=output))


@router.post("/code-run")
async def code_run(
    record: Started, state: State, body: Annotated[CodeRunRequest, Depends(body_of(CodeRunRequest))]
) -> Response:
    """Run a piece of code with the interpreter of its language."""
    if body.language not in INTERPRETERS:
        raise daemon(400, f"unsupported language: {body.language}", "BAD_REQUEST")
    argv = ("/usr/bin/env", *INTERPRETERS[body.language], body.code, *(body.argv or ()))
    variables = environment(record, state, body.envs)
    code, output = await _run(argv, record.workdir, variables, body.timeout or DEADLINE_S)
    return answer(CodeRunResponse(exit_code=code, result=output))


async def _run(argv: tuple[str, ...], cwd: Path, variables: Mapping[str, str], timeout_s: float) -> tuple[int, str]:
    _check_directory(cwd)
    async with _started(argv, cwd, variables) as process:
        try:
            async with asyncio.timeout(timeout_s):
                output, _ = await process.communicate()
        except TimeoutError:
            raise daemon(408, "command execution timeout", "PROCESS_EXECUTION_TIMEOUT") from None
    assert process.returncode is not None
    return process.returncode, output.decode(errors="replace")


def _check_directory(cwd: Path) -> None:
    if not cwd.is_dir():
        raise daemon(400, f"chdir {cwd}: no such file or directory", "BAD_REQUEST")


@asynccontextmanager
async def _started(
    argv: tuple[str, ...], cwd: Path, variables: Mapping[str, str]
) -> AsyncGenerator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=cwd,
        env=variables,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            signal_group(process.pid, signal.SIGKILL)
            await process.wait()


def session_of(record: DoubleSandbox, session_id: str) -> SessionShell:
    """Return a session of a sandbox. Raises `Refusal` (404) if there is none."""
    if session_id not in record.sessions:
        raise daemon(404, "session not found", "NOT_FOUND")
    return record.sessions[session_id]


def command_of(record: DoubleSandbox, session_id: str, command_id: str) -> ShellCommand:
    """Return a command of a session. Raises `Refusal` (404) if there is none."""
    commands = session_of(record, session_id).commands
    if command_id not in commands:
        raise daemon(404, "command not found", "NOT_FOUND")
    return commands[command_id]


def _command(command: ShellCommand) -> Command:
    return Command(id=command.id, command=command.text, exit_code=command.exit_code)


def _session(session: SessionShell) -> Session:
    return Session(session_id=session.session_id, commands=[_command(one) for one in session.commands.values()])


@router.post("/session", status_code=201)
async def create_session(
    record: Started, state: State, body: Annotated[CreateSessionRequest, Depends(body_of(CreateSessionRequest))]
) -> Response:
    """Start the shell of a session."""
    if body.session_id in record.sessions:
        raise daemon(409, "session already exists", "CONFLICT")
    directory = record.directory / "sessions" / secrets.token_hex(8)
    session = record.sessions[body.session_id] = SessionShell(body.session_id, directory)
    await session.start(workdir=record.workdir, environment=environment(record, state))
    state.background(session.wait())
    return Response(status_code=201)


@router.get("/session")
async def list_sessions(record: Started) -> Response:
    """List the sessions of a sandbox."""
    return answers([_session(session) for session in record.sessions.values()])


@router.get("/session/{session_id}")
async def get_session(record: Started, session_id: str) -> Response:
    """Return a session with its commands."""
    return answer(_session(session_of(record, session_id)))


@router.delete("/session/{session_id}", status_code=204)
async def delete_session(record: Started, session_id: str) -> Response:
    """End a session and what it started."""
    session = session_of(record, session_id)
    await session.delete()
    record.sessions.pop(session_id, None)
    return Response(status_code=204)


@router.post("/session/{session_id}/exec")
async def session_exec(
    record: Started,
    state: State,
    session_id: str,
    body: Annotated[SessionExecuteRequest, Depends(body_of(SessionExecuteRequest))],
) -> Response:
    """Run a command in a session: answer at once (202) with `runAsync`, else when it has ended."""
    session = session_of(record, session_id)
    run_async = bool(body.run_async or body.var_async)
    command_id = secrets.token_hex(16)
    silent = state.faults.take("no-exit-code", sandbox=record.names) is not None
    command = session.run(command_id, body.command, keep_input=run_async, silent=silent)
    if run_async:
        return answer(SessionExecuteResponse(cmd_id=command.id), 202)
    await command.ended.wait()
    if command.exit_code is None:
        raise daemon(410, "session has ended", "SESSION_ENDED")
    logs = _logs(command)
    return answer(
        SessionExecuteResponse(
            cmd_id=command.id,
            exit_code=command.exit_code,
            output=logs.output,
            stdout=logs.stdout,
            stderr=logs.stderr,
        )
    )


@router.get("/session/{session_id}/command/{command_id}")
async def get_command(record: Started, session_id: str, command_id: str) -> Response:
    """Return a command, with its exit code once it has ended."""
    return answer(_command(command_of(record, session_id, command_id)))


@router.get("/session/{session_id}/command/{command_id}/logs")
async def get_logs(record: Started, session_id: str, command_id: str) -> Response:
    """Return what a command has printed so far."""
    return answer(_logs(command_of(record, session_id, command_id)))


@router.post("/session/{session_id}/command/{command_id}/input", status_code=204)
async def send_input(
    record: Started,
    session_id: str,
    command_id: str,
    body: Annotated[SessionSendInputRequest, Depends(body_of(SessionSendInputRequest))],
) -> Response:
    """Write to the standard input of a running command."""
    command = command_of(record, session_id, command_id)
    session_of(record, session_id).send_input(command, body.data)
    return Response(status_code=204)


def _logs(command: ShellCommand) -> SessionCommandLogsResponse:
    return SessionCommandLogsResponse(
        output=command.output(STDOUT, STDERR), stdout=command.output(STDOUT), stderr=command.output(STDERR)
    )
