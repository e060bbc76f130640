"""Calls models with a deadline: records each call before it is made, and meters the call when it has ended.

`models/store.py` explains the two records and what happens to them after a crash.
"""

import asyncio
from typing import Any

import msgspec

from muster.common.bus.connection import Bus
from muster.common.contract import encode
from muster.common.contracts.gateway import ModelCalled
from muster.common.contracts.sandbox_log import partition
from muster.common.faults import Fault, TimedOut
from muster.sandbox_gateway.models.adapters.registry import Completion, ModelProviders
from muster.sandbox_gateway.models.domain.provider_errors import ModelTooSlow
from muster.sandbox_gateway.models.store import ModelCallStore
from muster.sandbox_gateway.sandboxes.domain.tokens import SandboxClaims

RESERVED_TOKENS = 4096
"""Tokens that are reserved for an answer if the request does not limit them."""
_CHARACTERS_PER_TOKEN = 4


class MeteredModels:
    """Calls models and meters the calls. Refuses the calls of a sandbox after `most_timeouts` timeouts in a row."""

    def __init__(
        self, bus: Bus, models: ModelProviders, calls: ModelCallStore, *, deadline_s: float, most_timeouts: int
    ) -> None:
        self._bus, self._models, self._calls = bus, models, calls
        self._deadline_s, self._most_timeouts = deadline_s, most_timeouts

    async def complete(
        self, claims: SandboxClaims, request: dict[str, Any], request_id: str, markers: list[str]
    ) -> Completion:
        """Call a model and meter the call, also if it fails. Raises a `Fault` with the reason if there is no answer."""
        timeouts = await self._calls.timeouts(claims.sbx)
        if timeouts >= self._most_timeouts:
            raise self._too_slow(str(request["model"]))
        reserved = await self._reserved(claims, request, request_id, markers, timeouts)
        position = await self._calls.begin(reserved, deadline_s=self._deadline_s)
        loop = asyncio.get_running_loop()
        began = loop.time()
        done = await self._answer_or_fault(request)
        call = _settled(reserved, done)
        await self._calls.settle(position, msgspec.structs.replace(call, seconds=loop.time() - began))
        if isinstance(done, TimedOut) and call.timeouts >= self._most_timeouts:
            raise self._too_slow(str(request["model"]))
        if isinstance(done, Fault):
            raise done
        return done

    async def _reserved(
        self, claims: SandboxClaims, request: dict[str, Any], request_id: str, markers: list[str], timeouts: int
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
            cost_usd=cost_usd,
            seconds=0.0,
            status=TimedOut.status,
            markers=markers,
            usage="reserved",
            timeouts=timeouts,
        )

    async def _answer_or_fault(self, request: dict[str, Any]) -> Completion | Fault:
        """Call the model and return its answer. A fault is returned and not raised, because it is metered too."""
        try:
            async with asyncio.timeout(self._deadline_s):
                return await self._models.adapter_of(request["model"]).complete(request)
        except TimeoutError:
            return TimedOut(f"the model did not answer within {self._deadline_s:g} s; send the request again")
        except Fault as fault:
            return fault

    def _too_slow(self, model: str) -> ModelTooSlow:
        return ModelTooSlow(
            f"the model {model} did not answer within {self._deadline_s:g} s, {self._most_timeouts} times in a row: "
            "choose a faster model, request a shorter answer (max_tokens, reasoning_effort), or set a longer "
            "MUSTER_MODEL_DEADLINE_S where the stack is started"
        )


def _settled(reserved: ModelCalled, done: Completion | Fault) -> ModelCalled:
    """Return the record of a model call that has ended.

    A call that timed out is metered with its reserved usage, because the provider may have generated an answer.
    """
    match done:
        case TimedOut():
            return msgspec.structs.replace(reserved, timeouts=reserved.timeouts + 1)
        case Completion():
            return msgspec.structs.replace(
                reserved,
                prompt_tokens=done.prompt_tokens,
                completion_tokens=done.completion_tokens,
                cost_usd=done.cost_usd,
                status=200,
                usage="measured",
                timeouts=0,
            )
        case _:
            return msgspec.structs.replace(
                reserved, prompt_tokens=0, completion_tokens=0, cost_usd=0.0, status=done.status, usage="measured"
            )
