"""Calls models with a deadline: records each call before it is made, and meters the call when it has ended.

`models/store.py` explains the two records and what happens to them after a crash. A call that fails is also recorded in
the sandbox's log. A call that a limit of the task forbids is not made.
"""

import asyncio
from typing import Any

import msgspec
import structlog

from muster.common.bus.connection import Bus
from muster.common.contract import encode
from muster.common.contracts.model_calls import ModelCalled
from muster.common.contracts.sandbox_log import partition
from muster.common.faults import Fault, TimedOut
from muster.sandbox_gateway.models.adapters.registry import ModelProviders
from muster.sandbox_gateway.models.domain.answers import Completion, larger_limit, trouble_with
from muster.sandbox_gateway.models.domain.limits import reached
from muster.sandbox_gateway.models.domain.provider_errors import (
    ModelFault,
    ModelGivenUp,
    ModelTimedOut,
    ModelTooSlow,
    ModelUnreadable,
)
from muster.sandbox_gateway.models.domain.records import failure, settled
from muster.sandbox_gateway.models.routes.failures import FailedCallLog
from muster.sandbox_gateway.models.routes.sandbox_use import SandboxUse
from muster.sandbox_gateway.models.store import ModelCallStore
from muster.sandbox_gateway.sandboxes.domain.tokens import SandboxClaims

log = structlog.get_logger()

RESERVED_TOKENS = 4096
"""Tokens that are reserved for an answer if the request does not limit them."""
_CHARACTERS_PER_TOKEN = 4


class MeteredModels:
    """Calls models and meters the calls.

    Refuses the calls of a sandbox after `most_timeouts` timeouts or `most_failures` failures in a row. None means no
    limit. A cut answer is requested again with a higher limit of up to `most_tokens` output tokens, unless the request
    has a limit of its own.
    """

    def __init__(
        self,
        bus: Bus,
        models: ModelProviders,
        calls: ModelCallStore,
        failures: FailedCallLog,
        *,
        deadline_s: float,
        most_timeouts: int | None,
        most_failures: int | None,
        most_tokens: int,
    ) -> None:
        self._bus, self._models, self._calls, self._failures = bus, models, calls, failures
        self._deadline_s, self._most_tokens = deadline_s, most_tokens
        self._most_timeouts, self._most_failures = most_timeouts, most_failures
        self._use = SandboxUse()

    async def complete(
        self, claims: SandboxClaims, request: dict[str, Any], request_id: str, markers: list[str]
    ) -> Completion:
        """Call a model and meter the call, also if it fails. Raises a `Fault` with the reason if there is no answer."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + self._deadline_s
        raised: int | None = None
        while True:
            answer, fault = await self._once(claims, request, request_id, markers, within_s=ends - loop.time())
            if answer is not None and fault is None:
                return answer
            raised = larger_limit(request, answer, raised=raised, most=self._most_tokens)
            if raised is None or loop.time() >= ends:  # The worker waits only a little longer than one call may take.
                raise fault or Fault()
            request, request_id = request | {"max_tokens": raised}, self._bus.new_id("req")

    async def _once(
        self, claims: SandboxClaims, request: dict[str, Any], request_id: str, markers: list[str], *, within_s: float
    ) -> tuple[Completion | None, Fault | None]:
        """Make one call if the limits allow it. Return the answer, the fault, or both for an answer without use."""
        last = await self._calls.last(claims.sbx)
        if last is not None and not self._use.knows(claims.sbx):
            self._use.learn(claims.sbx, await self._calls.used(claims.sbx))
        reserved = await self._reserved(claims, request, request_id, markers, last)
        await self._refuse(claims, reserved, last)
        reserved = self._use.begin(reserved)
        position = await self._calls.begin(reserved, deadline_s=self._deadline_s)
        loop = asyncio.get_running_loop()
        began = loop.time()
        answer, fault = await self._answer(request, within_s)
        call = self._use.settle(reserved, settled(reserved, answer, fault))
        tries = last.failed.tries + 1 if last and last.failed else 1
        failed = failure(call, fault, tries=tries, now=self._bus.now()) if fault else None
        call = msgspec.structs.replace(call, seconds=loop.time() - began, failed=failed)
        await self._calls.settle(position, call)
        if failed is not None:
            given_up = self._given_up(call)
            await self._failures.record(claims, msgspec.structs.replace(failed, retry_at=None) if given_up else failed)
            fault = given_up or fault
        return answer, fault

    async def _refuse(self, claims: SandboxClaims, call: ModelCalled, last: ModelCalled | None) -> None:
        """Raise the reason not to make a call, if there is one. The sandbox's log shows the first such refusal."""
        refusal = reached(claims.limits, call.used, priced=call.priced) or (self._given_up(last) if last else None)
        if refusal is None:
            return
        if self._use.first_refusal(claims.sbx, refusal.code):
            tries = last.failed.tries if last and last.failed else 1
            failed = failure(call, refusal, tries=tries, now=self._bus.now())
            if not await self._failures.record(claims, failed):
                self._use.forget_refusal(claims.sbx, refusal.code)  # The next refusal tries to record it again.
        raise refusal

    def _given_up(self, last: ModelCalled) -> ModelFault | None:
        """Return the refusal of all further calls if too many calls in a row have timed out or failed, or None."""
        if self._most_timeouts is not None and last.timeouts >= self._most_timeouts:
            return ModelTooSlow(
                f"the model {last.model} did not answer within {self._deadline_s:g} s, {self._most_timeouts} times in "
                "a row: choose a faster model, request a shorter answer (max_tokens, reasoning_effort), or set a "
                "longer MUSTER_MODEL_DEADLINE_S where the stack is started"
            )
        failed = last.failed
        if failed and failed.retry_at and self._most_failures is not None and failed.tries >= self._most_failures:
            status = f" ({failed.status})" if failed.status else ""
            return ModelGivenUp(
                f"the model {last.model} failed {failed.tries} times in a row; the last time{status}: {failed.error}"
            )
        return None

    async def _reserved(
        self,
        claims: SandboxClaims,
        request: dict[str, Any],
        request_id: str,
        markers: list[str],
        last: ModelCalled | None,
    ) -> ModelCalled:
        """Return a call's record with reserved usage: an upper estimate that is metered if the usage stays unknown."""
        model = str(request["model"])
        provider = self._models.adapter_of(model)
        prompt = len(encode([request["messages"], request.get("tools")])) // _CHARACTERS_PER_TOKEN
        answer = int(request.get("max_completion_tokens") or request.get("max_tokens") or RESERVED_TOKENS)
        try:
            async with asyncio.timeout(self._deadline_s):
                cost_usd = await provider.price(model, prompt, answer)
        except TimeoutError:
            raise TimedOut("the price of the model was not found in time; send the request again") from None
        return ModelCalled(
            partition=partition(claims.sbx),
            sandbox_id=claims.sbx,
            task_id=claims.tsk,
            epoch=claims.epoch,
            request_id=request_id,
            at=self._bus.now(),
            model=model,
            provider=provider.provider_of(model),
            prompt_tokens=prompt,
            completion_tokens=answer,
            cost_usd=cost_usd or 0.0,
            priced=cost_usd is not None,
            seconds=0.0,
            status=TimedOut.status,
            markers=markers,
            usage="reserved",
            timeouts=last.timeouts if last else 0,
            used=self._use.used(claims.sbx, last),
        )

    async def _answer(self, request: dict[str, Any], within_s: float) -> tuple[Completion | None, Fault | None]:
        """Call the model. A fault is returned and not raised, because it is metered too."""
        try:
            async with asyncio.timeout(within_s):
                answer = await self._models.adapter_of(request["model"]).complete(request)
        except TimeoutError:
            return None, ModelTimedOut(
                f"the model did not answer within {self._deadline_s:g} s; send the request again"
            )
        except Fault as fault:
            return None, fault
        except Exception:  # Also a call that failed by a bug is metered and shown.
            log.exception("model call raised an unexpected error", model=request["model"])
            return None, ModelUnreadable("the provider's answer cannot be read; the gateway's log has the error")
        return answer, trouble_with(answer)
