"""A sandbox's record names its provider."""

from pathlib import Path

import msgspec
import pytest

from muster.common.clock import utc_now
from muster.common.contracts.gateway import CreateSandbox
from muster.common.faults import Unavailable
from muster.sandbox_gateway.providers.registry import Providers
from muster.sandbox_gateway.sandboxes.domain.lifecycle import SandboxRecord
from muster.shim.client import ShimClient
from tests.support.local_sandboxes import HOST, local_sandboxes

NOWHERE = Path("/nowhere")
LOCAL = local_sandboxes(ShimClient(NOWHERE), NOWHERE, gateway_socket=NOWHERE)
ASKED = CreateSandbox(
    sandbox_id="sbx_1",
    task_id="tsk_1",
    agent_id="agt_1",
    epoch=1,
    conversation_id="cnv_1",
    package="echo",
    model="m",
    objective="o",
)
RECORD = SandboxRecord(create=ASKED, host=HOST, provider="local", created_at=utc_now())


def test_sandbox_of_this_host_has_a_provider() -> None:
    assert Providers([LOCAL]).of(RECORD) is LOCAL


@pytest.mark.parametrize("elsewhere", [{"host": "other"}, {"provider": "daytona"}])
def test_sandbox_of_another_host_or_unknown_provider_is_refused(elsewhere: dict[str, str]) -> None:
    record = msgspec.structs.replace(RECORD, **elsewhere)
    providers = Providers([LOCAL])
    assert not providers.reach(record)
    with pytest.raises(Unavailable, match="another host"):
        providers.of(record)
