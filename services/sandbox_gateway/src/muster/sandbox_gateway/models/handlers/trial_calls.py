"""Tests a model for `muster model test`: asks it for one word, and then whether it calls a tool.

The calls use the same adapters as the calls of sandboxes, so that an address, a key or a setting that fails here would
fail in a task too. The process `python -m muster.sandbox_gateway test-model` reads one request from stdin, writes one
JSON line for each step and one for the result, and ends.
"""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import IO, Any, Final

import msgspec

from muster.common.contract import encode
from muster.common.contracts.model_calls import ModelSettings
from muster.common.contracts.model_tests import (
    FailedTestCall,
    ModelTestLine,
    ModelTestRequest,
    ModelTestResult,
    ModelTestStep,
)
from muster.common.faults import Fault
from muster.sandbox_gateway.models.adapters.configured_models import ConfiguredModels
from muster.sandbox_gateway.models.adapters.litellm_models import LiteLLMModels
from muster.sandbox_gateway.models.adapters.registry import ModelProvider, ModelProviders
from muster.sandbox_gateway.models.adapters.threads import ModelThreads
from muster.sandbox_gateway.models.domain.answers import Completion, trouble_with
from muster.sandbox_gateway.models.domain.model_names import ModelNames
from muster.sandbox_gateway.models.domain.provider_errors import ModelFault, ModelRefused

_MOST_TOKENS: Final = 4096
"""The most output tokens of a test call. A model that reasons needs some hundred tokens before its first word."""
_ANSWER_CHARS = 200
_CLOSE_S = 1.0
_ASK_WORD = "Answer with the single word: ready"
_ASK_TOOL = "Call the tool `report_state` with the state `ready`. Do not answer with text."
_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "report_state",
        "description": "Report the state of this test.",
        "parameters": {"type": "object", "properties": {"state": {"type": "string"}}, "required": ["state"]},
    },
}
Notify = Callable[[ModelTestStep], None]


def run_trial(configured: ConfiguredModels, added_providers: Collection[str]) -> None:
    """Test the model that the request on stdin names, and write the result to stdout.

    `added_providers` are the providers that may be called in addition to the built-in ones.
    """
    # Only the lines of this module may reach stdout, and libraries may print there.
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0) as out:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        request = ModelTestRequest.from_json(sys.stdin.buffer.readline())
        names = ModelNames(added_providers, configured.get)
        result = asyncio.run(try_model(request, configured, names, lambda step: _write(out, ModelTestLine(step=step))))
        _write(out, ModelTestLine(result=result))


def _write(out: IO[bytes], line: ModelTestLine) -> None:
    out.write(encode(line) + b"\n")


async def try_model(
    request: ModelTestRequest, configured: ConfiguredModels, names: ModelNames, notify: Notify
) -> ModelTestResult:
    """Test a model until the deadline of the request. Each failure is a part of the result, and no exception."""
    threads = ModelThreads()
    left_s = max(0.1, request.ends_at_s - time.monotonic())
    litellm = LiteLLMModels(threads, configured, timeout_s=left_s)
    models = ModelProviders({}, otherwise=litellm, names=names, configured=configured.get)
    trial = _Trial(request.model, models, notify)
    try:
        async with asyncio.timeout(left_s):
            await trial.run(litellm)
    except TimeoutError:
        what = "LiteLLM, which calls the models, was not loaded" if trial.step == "import" else "no answer"
        trial.fail(FailedTestCall(kind="timeout", error=f"{what} within {left_s:.0f} s", step=trial.step))
    finally:
        with suppress(TimeoutError, Fault):
            async with asyncio.timeout(_CLOSE_S):
                await litellm.close()
        threads.close()
    return trial.result


class _Trial:
    """The test of one model. `result` contains what is known so far."""

    def __init__(self, model: str, models: ModelProviders, notify: Notify) -> None:
        self.result = ModelTestResult(model=model)
        self.step: ModelTestStep = "import"
        self._models, self._notify = models, notify

    async def run(self, litellm: LiteLLMModels) -> None:
        """Make the calls. A failure is part of the result, and no exception is raised for it."""
        try:
            adapter = self._models.adapter_of(self.result.model)
            self._set(provider=adapter.provider_of(self.result.model))
            adapter.check(self.result.model)
            self._begin("import")
            await litellm.prepare()
            self._begin("word")
            await self._ask_word(adapter)
            self._begin("tool")
            await self._ask_tool(adapter)
        except Fault as fault:
            self.fail(_failure(fault, self.step))

    def fail(self, failed: FailedTestCall) -> None:
        """Set the failure of the test."""
        self._set(failed=failed)

    async def _ask_word(self, adapter: ModelProvider) -> None:
        begun_s = time.monotonic()
        answer = await self._call(adapter, _ASK_WORD)
        seconds = time.monotonic() - begun_s
        price = await adapter.price(self.result.model, 1_000_000, 1_000_000)
        self._set(
            latency_s=round(seconds, 3),
            answer=_text(answer)[:_ANSWER_CHARS],
            priced=price is not None,
        )

    async def _ask_tool(self, adapter: ModelProvider) -> None:
        try:
            answer = await self._call(adapter, _ASK_TOOL, tools=[_TOOL])
        except ModelRefused as refusal:  # The server or the model refuses requests with tools.
            self._set(calls_tools=False, tool_error=str(refusal))
            return
        calls = _tool_calls(answer)
        said = _text(answer)[:_ANSWER_CHARS]
        error = "" if calls else f"the model answered with text instead of a tool call: {said!r}"
        self._set(calls_tools=bool(calls), tool_error=error)

    async def _call(self, adapter: ModelProvider, text: str, **more: Any) -> Completion:  # noqa: ANN401 - any JSON
        model = self.result.model
        request = {"model": model, "messages": [{"role": "user", "content": text}], **more}
        answer = await adapter.complete(request | _with_settings(self._models.settings(model)))
        self._set(
            prompt_tokens=self.result.prompt_tokens + answer.prompt_tokens,
            completion_tokens=self.result.completion_tokens + answer.completion_tokens,
            cost_usd=self.result.cost_usd + (answer.cost_usd or 0.0),
        )
        if trouble := trouble_with(answer):
            raise trouble
        return answer

    def _begin(self, step: ModelTestStep) -> None:
        self.step = step
        self._notify(step)

    def _set(self, **values: object) -> None:
        self.result = msgspec.structs.replace(self.result, **values)


def _with_settings(settings: ModelSettings) -> dict[str, Any]:
    """Return the settings of the model's entry as fields of a request, with a low limit of output tokens."""
    fields = {
        "max_tokens": min(settings.max_output_tokens or _MOST_TOKENS, _MOST_TOKENS),
        "temperature": settings.temperature,
        "reasoning_effort": settings.effort,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _failure(fault: Fault, step: ModelTestStep) -> FailedTestCall:
    if isinstance(fault, ModelFault):
        return FailedTestCall(kind=fault.kind, error=str(fault), status=fault.provider_status, step=step)
    # `check` and the reader of `models.toml` raise other faults: a key is missing, or the file cannot be read.
    kind = "key_refused" if step == "import" and fault.field == "$.model" else "refused"
    return FailedTestCall(kind=kind, error=str(fault), step=step)


def _message(answer: Completion) -> dict[str, Any]:
    return msgspec.json.decode(answer.body)["choices"][0]["message"]


def _text(answer: Completion) -> str:
    return str(_message(answer).get("content") or "").strip()


def _tool_calls(answer: Completion) -> list[Any]:
    return _message(answer).get("tool_calls") or []
