"""What a task is: every field that its submitter writes, declared once.

The body of the HTTP request, the command, the stored row, the view, the request for a sandbox and the handoff to the
worker all inherit `TaskSpec` or hold one, so a new field is one line here.
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
        pattern="^[A-Za-z_][A-Za-z0-9_]{0,127}$",
        description="may hold letters, digits and _, not a digit first, 1 to 128 of them",
    ),
]
Ticket = Annotated[str, storable(255)]


class Repo(Message):
    """A git repository to clone. `file://` is refused outside the allow-listed roots."""

    url: Annotated[str, visible(2_000)]
    ref: Line | None = None


class TaskSpec(Message):
    """What the submitter of a task writes about it.

    `paths` and the fields from `task_type` on are stored, shown and handed on; nothing in this release acts on them.
    """

    objective: Annotated[str, visible(65_536)]
    repo: Repo | None = None
    test_command: Annotated[str, visible(8_192)] | None = None
    paths: Annotated[list[Path], msgspec.Meta(max_length=100)] = []
    """Globs. The diff of the task stays inside them."""
    timeout_s: Annotated[float, msgspec.Meta(ge=1, le=86_400)] = 300.0
    priority: Priority = "NORMAL"
    labels: Labels = {}
    depends_on: Annotated[list[Name], msgspec.Meta(max_length=100)] = []
    ticket_id: Ticket | None = None
    phase_id: Ticket | None = None
    metadata: dict[str, Any] = {}
    task_type: Word | None = None
    """The kind of work, such as `unit_test`: models and validation rules are chosen by it."""
    target_file: Path | None = None
    """The file that the task is about, relative to the root of the repository."""
    complexity: Complexity | None = None
    """How hard the submitter takes the task to be."""
    quality_threshold: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    """The lowest score, 0 to 1, at which the result is accepted."""
    max_latency_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] | None = None
    """Seconds. A model that is expected to answer later is not chosen."""
    max_cost_usd: Annotated[float, msgspec.Meta(ge=0, le=1_000_000)] | None = None
    """US dollars that all attempts of the task together may cost."""
    requires: Annotated[list[Word], msgspec.Meta(max_length=64)] = []
    """Capabilities that the agent must have."""
    env: Annotated[dict[EnvName, Annotated[str, storable(4_096, least=0)]], msgspec.Meta(max_length=64)] = {}
    """Environment variables of the worker. They are stored and shown: no secrets."""
