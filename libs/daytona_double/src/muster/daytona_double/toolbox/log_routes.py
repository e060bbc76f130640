"""The WebSocket that follows the log of a command of a session.

Every message begins with the prefix of its stream. The socket closes with 1000 when the command has ended.
"""

from fastapi import APIRouter, WebSocket

from muster.daytona_double.admission import admit, started_sandbox
from muster.daytona_double.refusals import Refusal
from muster.daytona_double.requests import state_of
from muster.daytona_double.toolbox.process_routes import command_of

router = APIRouter(prefix="/{sandbox_id}/process")
ERROR_CLOSURE = 1011


@router.websocket("/session/{session_id}/command/{command_id}/logs")
async def follow_logs(socket: WebSocket, sandbox_id: str, session_id: str, command_id: str) -> None:
    """Send what a command printed so far, and then what it prints."""
    try:
        await admit(socket)
        record = started_sandbox(socket, sandbox_id)
        command = command_of(record, session_id, command_id)
    except Refusal as refusal:
        await socket.close(reason=refusal.message)  # Before the handshake is accepted, this answers 403.
        return
    await socket.accept()
    drops = state_of(socket).faults.take("drop-logs", sandbox=record.names) is not None
    sent = 0
    while True:
        await command.wait_after(sent)
        for stream, piece in command.log[sent:]:
            await socket.send_bytes(stream + piece)
            sent += 1
            if drops:
                await socket.close(ERROR_CLOSURE)
                return
        if command.ended.is_set() and len(command.log) == sent:
            await socket.close()
            return
