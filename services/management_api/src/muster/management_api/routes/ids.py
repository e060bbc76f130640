"""Ids in paths."""

from typing import Annotated, Any

from fastapi import Path

PATTERN = "^[A-Za-z0-9_-]{1,64}$"


def _in_path(prefix: str) -> Any:  # noqa: ANN401 - as `Path`
    return Path(pattern=PATTERN, examples=[f"{prefix}_01kagz5v3m8n6q2r4t7w9x0y1z"])


TaskId = Annotated[str, _in_path("tsk")]
AgentId = Annotated[str, _in_path("agt")]
SandboxId = Annotated[str, _in_path("sbx")]
KeyId = Annotated[str, _in_path("key")]
UserId = Annotated[str, _in_path("usr")]
