"""Agent packages: the content of an `agent.toml`, and the package folders that the manager found on disk."""

from typing import Annotated, Any, Literal

import msgspec

from muster.common.contract import Command, Message
from muster.common.contracts.fields import Word
from muster.common.contracts.task_spec import Network, Variables

Mode = Literal["process", "sandbox"]


class Capability(Message):
    """A kind of work that an agent can do. `config` is the JSON Schema of the configuration that this work requires."""

    name: str
    description: str = ""
    config: dict[str, Any] = {}


class Resources(Message):
    """The resources that one agent of a package may use. An unset field means no limit."""

    memory_bytes: int | None = None
    cpu_s: int | None = None
    open_files: int = 4096


class PackageLimits(Message):
    """The limits of a task whose submitter sets none. An unset field of a package that calls a model has a default."""

    timeout_s: Annotated[float, msgspec.Meta(ge=1, le=86_400)] | None = None
    max_steps: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000_000)] | None = None


class Manifest(Message):
    """The content of an `agent.toml`. The agent's process is started as `python -m <module>`."""

    name: str
    type: str
    version: str
    module: str
    description: str = ""
    modes: tuple[Mode, ...] = ("process", "sandbox")
    capabilities: list[Capability] = []
    needs_model: bool = False
    provider: Word | None = None
    """Provider of the sandboxes of this package. A task may name another one."""
    resources: Resources = Resources()
    limits: PackageLimits = PackageLimits()
    graceful_stop_s: float = 5.0
    env: Variables = {}
    """Environment variables of each task of the package. A variable of the task replaces that of the package."""
    network: Network | None = None
    """The network of each task of the package. The hosts of a task are added to those of its package."""
    preload: tuple[str, ...] = ()
    """Modules that are imported once on a host, before workers are started. Then each worker starts as a fork of that
    process. The modules must start no thread and read nothing that belongs to a task."""


class PackageView(Message):
    """A package folder that discovery found: its manifest, or the reason why the package cannot be used."""

    name: str
    folder: str
    usable: bool
    manifest: Manifest | None = None
    reason: str | None = None
    digest: str = ""
    """A digest that changes with the content of the folder."""


class PackageList(Message):
    """All packages, sorted by name, including those that cannot be used."""

    packages: list[PackageView]


class ListPackages(Command[PackageList], subject="agent.manager.query.packages"):
    """Return the packages that discovery found."""
