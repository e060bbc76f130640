"""The fields of a task that its submitter gives, declared once in `TaskSpec`.

The HTTP request, the command, the stored row, the view, the request for a sandbox and the worker's handoff inherit
`TaskSpec` or contain one. So a new field is one new line here.
"""

from typing import Annotated, Any, Literal

import msgspec

from muster.common.contract import Message
from muster.common.contracts.fields import (
    Effort,
    Labels,
    Line,
    Name,
    OutputTokens,
    Path,
    Temperature,
    Word,
    storable,
    visible,
)

Priority = Literal["CRITICAL", "HIGH", "NORMAL", "LOW"]
Complexity = Literal["trivial", "simple", "moderate", "complex"]
EnvName = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$(?!\n)",
        description="may hold letters, digits and _, not a digit first, 1 to 128 of them",
    ),
]
BranchName = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./-]{0,199}$(?!\n)",
        description="may hold letters, digits, _, ., - and /, 1 to 200 of them",
    ),
]
Variables = Annotated[dict[EnvName, Annotated[str, storable(4_096, least=0)]], msgspec.Meta(max_length=64)]
"""Environment variables, by name."""
Ticket = Annotated[str, storable(255)]
Expected = Literal["change", "answer"]
NetworkMode = Literal["none", "allow-list", "host"]
"""The network of a sandbox: none, only hosts of an allow-list through the gateway's proxy, or that of the host."""
AllowedHosts = Annotated[
    list[
        Annotated[
            str,
            msgspec.Meta(
                pattern=r"^[A-Za-z0-9._*:\[\]-]{1,260}$(?!\n)",
                description="must be a preset such as pypi, a host such as example.org, or *.example.org",
            ),
        ]
    ],
    msgspec.Meta(max_length=64),
]
"""Entries of an allow-list of hosts: presets, hosts, and `*.` before the domain of all its subdomains."""
DEFAULT_TIMEOUT_S = 300.0
"""Seconds that an attempt may take if neither the task nor its package has a limit."""


class Repo(Message):
    """A git repository to clone. A `file://` URL is refused outside the allowed folders.

    `url` may also be an SSH address such as `git@github.com:a/b.git`.
    """

    url: Annotated[str, visible(2_000)]
    ref: Line | None = None


class Deliver(Message):
    """Where the accepted result of a task goes: a branch of the task's repository, and perhaps a pull request.

    The gateway commits the result and pushes it with the credential of the repository's host.
    """

    branch: BranchName | None = None
    """The branch that is made. Without it, `muster/<task id>`. A branch with other commits is never overwritten."""
    push: bool = True
    pull_request: bool = False
    """Whether a pull request (in GitLab: a merge request) is opened for the branch."""
    title: Annotated[str, visible(250)] | None = None
    """The title of the commit and of the pull request. Without it, the first line of the objective."""


class Network(Message):
    """The network that a task or a package needs. The operator's settings limit it."""

    mode: NetworkMode | None = None
    """The most that the sandbox may reach. Without a value, the operator's setting applies."""
    hosts: AllowedHosts = []
    """The only hosts that the sandbox may reach. Without an entry, all hosts that the operator allows."""


class TaskSpec(Message):
    """The fields of a task that its submitter gives.

    This release stores, shows and passes on `task_type`, `target_file`, `complexity`, `quality_threshold`,
    `max_latency_s` and `requires`, but does not act on them.
    """

    objective: Annotated[str, visible(65_536)]
    repo: Repo | None = None
    deliver: Deliver | None = None
    test_command: Annotated[str, visible(8_192)] | None = None
    paths: Annotated[list[Path], msgspec.Meta(max_length=100)] = []
    """Globs that limit the files which the task may change."""
    timeout_s: Annotated[float, msgspec.Meta(ge=1, le=86_400)] | None = None
    """Seconds that one attempt may take. Without a value, the limit of the package applies."""
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
    """US dollars that all attempts of the task together may cost. Needs a model whose price is known."""
    max_steps: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None
    """Model calls that all attempts of the task together may make. Without a value, the package's limit applies."""
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000_000)] | None = None
    """Tokens, read and written, that all attempts of the task together may use. Without a value, as `max_steps`."""
    max_output_tokens: OutputTokens | None = None
    """The most tokens of one answer of the model. Without a value, the setting of the model applies."""
    temperature: Temperature | None = None
    """The model's sampling temperature. Without a value, the setting of the model applies."""
    effort: Effort | None = None
    """The model's reasoning effort. Without a value, the setting of the model applies."""
    provider: Word | None = None
    """Provider of the task's sandboxes, such as `local` or `daytona`. Without a value, that of the package applies."""
    expect: Expected | None = None
    """Whether a result without a diff is a failure. Without a value, a task with a repository expects a change."""
    requires: Annotated[list[Word], msgspec.Meta(max_length=64)] = []
    """Capabilities that the agent must have."""
    env: Variables = {}
    """Environment variables of the worker. They are stored and shown, so they must not contain secrets."""
    network: Network | None = None
    """The network of the task's sandboxes. Without a value, the setting of the package or the operator applies."""

    @property
    def time_limit_s(self) -> float:
        """The seconds that one attempt may take. A stored task always has `timeout_s`."""
        return DEFAULT_TIMEOUT_S if self.timeout_s is None else self.timeout_s

    @property
    def expects_change(self) -> bool:
        """Whether a result without a diff is a failure."""
        return self.expect == "change" or (self.expect is None and self.repo is not None)
