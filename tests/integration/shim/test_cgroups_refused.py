"""A cgroup in which the kernel permits no processes is not used, and the shim's own group is not changed."""

import os
from collections.abc import Generator
from pathlib import Path
from uuid import uuid4

import pytest

from muster.shim.cgroups import check_admits_processes, enable


@pytest.fixture
def group() -> Generator[Path]:
    """Yield a new cgroup v2, which needs no controllers."""
    mounts = (line.partition(" - ") for line in Path("/proc/self/mountinfo").read_text().splitlines())
    mount = next((before.split()[4] for before, _, after in mounts if after.startswith("cgroup2")), None)
    if mount is None or not os.access(mount, os.W_OK):
        pytest.skip("no cgroup v2 is mounted in which this process may make groups")
    made = Path(mount) / f"muster-test-{uuid4().hex}"
    made.mkdir()
    try:
        yield made
    finally:
        for below in sorted(made.rglob("*/"), reverse=True):
            below.rmdir()
        made.rmdir()


def test_group_whose_children_may_not_contain_processes_is_refused(group: Path) -> None:
    (group / "threads").mkdir()
    (group / "threads" / "cgroup.type").write_text("threaded")
    # The kernel now lets each new child of the group exist, and contain nothing.
    assert (group / "cgroup.type").read_text().strip() == "domain threaded"
    with pytest.raises(OSError, match="not supported"):
        check_admits_processes(group / "trial")
    assert not (group / "trial").exists()


def test_group_whose_children_may_contain_processes_is_accepted_and_left_empty(group: Path) -> None:
    check_admits_processes(group / "trial")
    assert not (group / "trial").exists()


def test_controllers_of_a_group_that_contains_processes_are_not_changed(tmp_path: Path) -> None:
    for name, text in (("cgroup.type", "domain"), ("cgroup.procs", "1\n"), ("cgroup.subtree_control", "")):
        (tmp_path / name).write_text(text)
    assert enable(tmp_path) == (frozenset(), [])
    assert not (tmp_path / "cgroup.subtree_control").read_text()
