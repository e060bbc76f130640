"""The command that makes a sandbox, with new ids."""

from typing import Any

import msgspec

from muster.common.contracts.gateway import CreateSandbox
from muster.common.ids import new_id


def create_command(**changes: Any) -> CreateSandbox:
    """Return a command for a sandbox of a new task of a new agent. `changes` replaces fields."""
    command = CreateSandbox(
        sandbox_id=new_id("sbx"),
        task_id=new_id("tsk"),
        agent_id=new_id("agt"),
        epoch=1,
        conversation_id=new_id("cnv"),
        package="echo",
        model="scripted/hello",
        objective="Say hello.",
    )
    return msgspec.structs.replace(command, **changes)
