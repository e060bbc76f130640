"""Simulates a machine without isolation: runs a program as a user that cannot create user namespaces."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from muster.embedded.postgres_user import PostgresUser
from tests.support.patience import PATIENCE_S


def run_where_nothing_isolates(
    argv: Sequence[str], *, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end as uid 1000 in a user namespace in which no further user namespace can be created."""
    return subprocess.run(
        argv, env=env, capture_output=True, text=True, timeout=PATIENCE_S, preexec_fn=without_namespaces
    )


def without_namespaces() -> None:
    """Make this process, before its exec, one that cannot create user namespaces."""
    PostgresUser.NAMESPACE.become()
    Path("/proc/sys/user/max_user_namespaces").write_text("0")
