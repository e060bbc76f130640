"""Agent packages: the content of an `agent.toml`, and the package folders that the manager found on disk."""

from typing import Annotated, Any, Final, Literal

import msgspec

from muster.common.contract import Command, Message
from muster.common.contracts.fields import Word
from muster.common.contracts.task_spec import Network, Variables
from muster.common.faults import InvalidMessage

Mode = Literal["process", "sandbox"]


class Capability(Message):
    """A kind of work that an agent can do. `config` is the JSON Schema of the configuration that this work requires."""

    name: str
    description: str = ""
    config: dict[str, Any] = {}


class Resources(Message):
    """The resources that one sandbox, or one agent in process mode, may use.

    An unset field has the value of `DEFAULT_RESOURCES`, or the operator's maximum if this is lower. `open_files`,
    `cpu_s` and `file_bytes` hold for each process, the other fields for all processes of a program together.
    """

    memory_bytes: int | None = None
    """Most memory."""
    cpus: float | None = None
    """Most processor cores. Without a cgroup, agents only have a lower priority than the services."""
    cpu_s: int | None = None
    """Most seconds of processor time of one process. An unset field means no limit."""
    processes: int | None = None
    """Most processes and threads."""
    file_bytes: int | None = None
    """Most bytes of one file."""
    disk_bytes: int | None = None
    """Most bytes of all files that a sandbox may write. Not held for agents in process mode."""
    open_files: int = 4096


DEFAULT_RESOURCES: Final = Resources(
    memory_bytes=4 << 30, cpus=1.0, processes=512, file_bytes=2 << 30, disk_bytes=10 << 30
)


def granted(wanted: Resources, most: Resources = Resources()) -> Resources:  # noqa: B008 - it is immutable
    """Return the resources of a program whose package wants some, on a host whose operator sets a maximum.

    Raises `InvalidMessage` with the field if the package wants more than the maximum.
    """
    found = dict[str, float]()
    for name in DEFAULT_RESOURCES.__struct_fields__:
        asked, largest = getattr(wanted, name), getattr(most, name)
        if name == "open_files" or (asked is None and getattr(DEFAULT_RESOURCES, name) is None):
            continue
        if asked is not None and largest is not None and asked > largest:
            raise InvalidMessage(
                f"the agent package wants resources.{name} = {asked}, but this host grants at most {largest}; "
                f"lower the value in the package's agent.toml, or raise MUSTER_SANDBOX_MAX_{name.upper()}",
                field="$.package",
            )
        value = getattr(DEFAULT_RESOURCES, name) if asked is None else asked
        found[name] = value if largest is None else min(value, largest)
    return msgspec.structs.replace(wanted, **found)


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
