"""Shows failed model calls: in the sandbox's log at once, and in the log of the gateway."""

import structlog

from muster.common.contracts.model_calls import ModelFailed
from muster.common.contracts.sandbox_log import FrameKind
from muster.common.faults import Fault
from muster.sandbox_gateway.sandbox_log.domain.frames import control
from muster.sandbox_gateway.sandbox_log.store.log import SandboxLog
from muster.sandbox_gateway.sandboxes.domain.tokens import SandboxClaims

log = structlog.get_logger()


class FailedCallLog:
    """Appends a `model_failed` frame to the sandbox's log for each failed model call."""

    def __init__(self, sandbox_log: SandboxLog) -> None:
        self._sandbox_log = sandbox_log

    async def record(self, claims: SandboxClaims, failed: ModelFailed) -> bool:
        """Append the failure to the log of its sandbox; return whether the log has it. An error is not raised.

        The worker gets the reason of the failure in any case.
        """
        log.warning(
            "model call failed",
            task_id=claims.tsk,
            sandbox_id=claims.sbx,
            model=failed.model,
            kind=failed.kind,
            status=failed.status,
            tries=failed.tries,
            error=failed.error,
        )
        try:
            await self._sandbox_log.append([control(claims.owner, FrameKind.MODEL_FAILED, failed)])
        except Fault as fault:
            log.warning("failed model call not shown in the sandbox's log", sandbox_id=claims.sbx, error=str(fault))
            return False
        return True
