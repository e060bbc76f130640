"""The limits of a sandbox are shown in units that a reader knows."""

import msgspec

from muster.cli.commands.sandbox import limits_text
from muster.common.contracts.packages import DEFAULT_RESOURCES


def test_limits_are_shown_in_binary_units_and_unset_limits_are_left_out() -> None:
    shown = limits_text(msgspec.to_builtins(DEFAULT_RESOURCES)).splitlines()
    assert {"memory 4 GiB", "processes 512", "file 2 GiB", "disk 10 GiB"} <= set(shown)
    assert not any("cpu time" in line for line in shown)


def test_size_that_is_no_whole_unit_is_shown_exactly() -> None:
    assert limits_text({"memory_bytes": 1_000_001, "cpu_s": 7}) == "memory 1000001 bytes\ncpu time 7 s for each process"
