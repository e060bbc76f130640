"""The types of the ids that are path parameters of routes."""

from typing import Annotated

from fastapi import Path, params

from muster.common.contracts.fields import NAME


def _in_path(prefix: str) -> params.Path:
    return Path(pattern=NAME, examples=[f"{prefix}_01kagz5v3m8n6q2r4t7w9x0y1z"])


Sha256InPath = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", examples=["0" * 64])]
"""A SHA-256 digest in hexadecimal digits. FastAPI's patterns match no line end."""
TaskId = Annotated[str, _in_path("tsk")]
AgentId = Annotated[str, _in_path("agt")]
SandboxId = Annotated[str, _in_path("sbx")]
CommandId = Annotated[str, _in_path("req")]
KeyId = Annotated[str, _in_path("key")]
UserId = Annotated[str, _in_path("usr")]
