"""The resources of a package: defaults where it sets none, and at most what the operator grants."""

import pytest

from muster.common.contracts.packages import DEFAULT_RESOURCES, Resources, granted
from muster.common.faults import InvalidMessage
from muster.common.sizes import as_size


def test_every_limit_but_processor_time_holds_by_default() -> None:
    unset = {name for name in Resources.__struct_fields__ if getattr(granted(Resources()), name) is None}
    assert unset == {"cpu_s"}


def test_package_may_lower_and_raise_its_limits() -> None:
    own = Resources(memory_bytes=1 << 40, processes=3, open_files=7)
    found = granted(own, Resources(memory_bytes=1 << 41, processes=5))
    assert (found.memory_bytes, found.processes, found.open_files) == (1 << 40, 3, 7)
    assert found.disk_bytes == DEFAULT_RESOURCES.disk_bytes


def test_lower_maximum_lowers_the_default() -> None:
    assert granted(Resources(), Resources(memory_bytes=1 << 20)).memory_bytes == 1 << 20


def test_package_that_wants_more_than_the_maximum_is_refused_with_the_setting() -> None:
    with pytest.raises(InvalidMessage, match="MUSTER_SANDBOX_MAX_DISK_BYTES"):
        granted(Resources(disk_bytes=2), Resources(disk_bytes=1))


@pytest.mark.parametrize(("size", "text"), [(0, "0 bytes"), (1 << 10, "1 KiB"), (1536 << 20, "1.5 GiB")])
def test_size_has_the_largest_unit(size: int, text: str) -> None:
    assert as_size(size) == text
