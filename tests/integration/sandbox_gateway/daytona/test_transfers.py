"""A file that is sent to or from Daytona is whole, or the transfer fails."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from muster.common.faults import NotFound, Unavailable
from tests.support.daytona import ONE

if TYPE_CHECKING:
    from muster.daytona_double import DaytonaDouble
    from muster.sandbox_gateway.providers.daytona.sandboxes import DaytonaSandboxes


@pytest.mark.stress
async def test_a_cut_or_shortened_upload_is_noticed_and_leaves_no_file(
    double: DaytonaDouble, daytona: DaytonaSandboxes, tmp_path: Path
) -> None:
    layout = await daytona.ensure(ONE)

    async def body() -> AsyncIterator[bytes]:
        yield b"x" * 100_000

    for fault in ("cut-upload", "short-upload"):
        double.faults.set(fault, times=1)
        with pytest.raises(Unavailable):
            await daytona.put("sbx_1", f"{layout.workspace}/file", body())
        with pytest.raises(NotFound):
            await anext(daytona.fetch("sbx_1", f"{layout.workspace}/file"))
    source = tmp_path / "given"
    source.mkdir()
    (source / "file").write_bytes(b"y" * 100_000)
    double.faults.set("short-upload", times=1)
    inside = await daytona.provide("sbx_1", "given", source)  # It is sent again.
    read = b"".join([chunk async for chunk in daytona.fetch("sbx_1", f"{inside}/file")])
    assert read == b"y" * 100_000


@pytest.mark.parametrize("fault", ["download-502", "cut-download"])
@pytest.mark.stress
async def test_a_failed_download_is_never_taken_for_a_whole_file(
    fault: str, double: DaytonaDouble, daytona: DaytonaSandboxes
) -> None:
    layout = await daytona.ensure(ONE)

    async def body() -> AsyncIterator[bytes]:
        yield b"x" * 200_000

    await daytona.put("sbx_1", f"{layout.workspace}/file", body())
    double.faults.set(fault, times=1)
    with pytest.raises(Unavailable):
        _ = [chunk async for chunk in daytona.fetch("sbx_1", f"{layout.workspace}/file")]
