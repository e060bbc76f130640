"""The resource limits of a worker that the kernel holds for each process, and the sentences about exceeded limits."""

import resource
from collections.abc import Iterator

from muster.common.sizes import as_size
from muster.shim.worker_limits import Limits

_DATA_FACTOR = 2
"""A process may reserve more writable memory than it uses, such as the stacks of its threads."""


def resource_limits(limits: Limits) -> Iterator[tuple[int, int]]:
    """Yield each limit that the kernel holds for a process, as a pair: its number and the value."""
    yield resource.RLIMIT_CORE, 0
    yield resource.RLIMIT_NOFILE, limits.open_files
    for which, most in (
        (resource.RLIMIT_CPU, limits.cpu_s),
        (resource.RLIMIT_DATA, limits.memory_bytes and limits.memory_bytes * _DATA_FACTOR),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
    ):
        if most is not None:
            yield which, most


def process_limit(limits: Limits) -> Iterator[tuple[int, int]]:
    """Yield the limit of processes of a worker with a user namespace of its own, for which the kernel counts alone."""
    if limits.processes is not None:
        yield resource.RLIMIT_NPROC, limits.processes


def over_memory(most: int) -> str:
    """Return why a worker was killed that used more memory than its limit."""
    return f"over its limit of memory: its processes used more than {as_size(most)} (resources.memory_bytes)"


def over_processes(most: int) -> str:
    """Return why a worker was killed that had more processes than its limit."""
    return f"over its limit of processes: it had more than {most} processes and threads (resources.processes)"


def over_hidden_memory(most: int) -> str:
    """Return why a worker was killed that hides its open files while the host's shared memory grows."""
    return (
        f"over its limit of memory: it hides its open files, and since then files in memory have grown by more than "
        f"{as_size(most)} (resources.memory_bytes)"
    )
