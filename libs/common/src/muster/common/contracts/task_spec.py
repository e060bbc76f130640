"""The fields of a task that its submitter gives, declared once in `TaskSpec`.

The HTTP request, the command, the stored row, the view, the request for a sandbox and the worker's handoff inherit
`TaskSpec` or contain one. So a new field is one new line here.
"""

from typing import Annotated, Any, Literal

import msgspec

from muster.common.contract import Message
from muster.common.contracts.fields import Labels, Line, Name, Path, Word, storable, visible

Priority = Literal["CRITICAL", "HIGH", "NORMAL", "LOW"]
Complexity = Literal["trivial", "simple", "moderate", "complex"]
EnvName = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$(?!\n)",
        description="may hold letters, digits and _, not a digit first, 1 to 128 of them",
    ),
]
Ticket = Annotated[str, storable(255)]


class Repo(Message):
    """A git repository to clone. A `file://` URL is refused outside the allowed folders."""

    url: Annotated[str, visible(2_000)]
    ref: Line | None = None


class TaskSpec(Message):
    """The fields of a task that its submitter gives.

    This release stores, shows and passes on `paths` and the fields from `task_type` on, but does not act on them.
    """

    objective: Annotated[str, visible(65_536)]
    repo: Repo | None = None
    test_command: Annotated[str, visible(8_192)] | None = None
    paths: Annotated[list[Path], msgspec.Meta(max_length=100)] = []
    """Globs that limit the files which the task may change."""
    timeout_s: Annotated[float, msgspec.Meta(ge=1, le=86_400)] = 300.0
    priority: Priority = "NORMAL"
    labels: Labels = {}
    depends_on: Annotated[list[Name], msgspec.Meta(max_length=100)] = []
    ticket_id: Ticket | None = None
    phase_id: Ticket | None = None
    metadata: dict[str, Any] = {}
    task_type: Word | None = None
    """The kind of work, such as `unit_test`, by which models and validation rules are chosen."""
    target_file: Path | None = None
    """The file that the task is about, relative to the root of the repository."""
    complexity: Complexity | None = None
    """The difficulty of the task, estimated by the submitter."""
    quality_threshold: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    """The lowest score, 0 to 1, at which the result is accepted."""
    max_latency_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] | None = None
    """Seconds. A model that is expected to answer later is not chosen."""
    max_cost_usd: Annotated[float, msgspec.Meta(ge=0, le=1_000_000)] | None = None
    """US dollars that all attempts of the task together may cost."""
    requires: Annotated[list[Word], msgspec.Meta(max_length=64)] = []
    """Capabilities that the agent must have."""
    env: Annotated[dict[EnvName, Annotated[str, storable(4_096, least=0)]], msgspec.Meta(max_length=64)] = {}
    """Environment variables of the worker. They are stored and shown, so they must not contain secrets."""
