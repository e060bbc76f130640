"""A gateway makes no sandbox with a shim that isolates less than `MUSTER_ISOLATION_AT_LEAST`, and says why."""

from pathlib import Path

import pytest

from muster.common.faults import Unavailable
from muster.sandbox_gateway.providers.interface import ProcessSpec, SandboxSpec
from muster.sandbox_gateway.providers.registry import Providers
from muster.shim.client import ShimClient
from tests.support.local_sandboxes import local_sandboxes
from tests.support.patience import PATIENCE_S
from tests.support.shim import running_shim

SPEC = SandboxSpec(sandbox_id="sbx_1")


async def test_sandbox_waits_for_a_shim_with_enough_isolation_and_health_names_the_reason(tmp_path: Path) -> None:
    with running_shim("plain") as process:
        async with ShimClient(process.socket) as shim:
            await shim.probe(deadline_s=PATIENCE_S)
            strict = local_sandboxes(shim, tmp_path / "strict", gateway_socket=tmp_path / "s", at_least="landlock")
            with pytest.raises(Unavailable, match="at the level plain"):
                await strict.ensure(SPEC)
            assert not (tmp_path / "strict").exists()
            health = await Providers([strict]).health()
            assert health["local"]["isolation"] == "none"
            assert "MUSTER_ISOLATION_AT_LEAST is landlock" in health["local"]["why"]

            lenient = local_sandboxes(shim, tmp_path / "lenient", gateway_socket=tmp_path / "s", at_least="plain")
            layout = await lenient.ensure(SPEC)
            assert (await Providers([lenient]).health())["local"]["isolation"] == "plain"
            command = ProcessSpec(key="try", argv=["true"], cwd=layout.workspace, timeout_s=PATIENCE_S)
            with pytest.raises(Unavailable, match="at the level plain"):
                await local_sandboxes(
                    shim, tmp_path / "lenient", gateway_socket=tmp_path / "s", at_least="bubblewrap"
                ).launch("sbx_1", command)
