"""The provider `scripted`: models that answer from a JSON script, for tests and demonstrations."""

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from muster.common.clock import Clock
from muster.common.contract import TOKEN, encode
from muster.common.faults import Fault, InvalidMessage
from muster.sandbox_gateway.models.adapters.registry import Completion
from muster.sandbox_gateway.models.domain.faults import ModelFailed, ModelUnknown
from muster.sandbox_gateway.models.domain.script import Script, ScriptTurn, choose

_CHARACTERS_PER_TOKEN = 4


class ScriptedModels:
    """Answers for `scripted/<name>` with the script `<name>.json` of the first directory that has it."""

    def __init__(self, directories: Sequence[Path], now: Clock) -> None:
        self._directories, self._now = directories, now

    def provider_of(self, model: str) -> str:
        """Return `scripted`, so that each record of a call shows that no hosted model answered."""
        return model.partition("/")[0]

    async def price(self, model: str, prompt_tokens: int, completion_tokens: int) -> float:  # noqa: ARG002 - as the protocol says
        """Return 0: a scripted model costs nothing."""
        return 0.0

    def check(self, model: str) -> None:
        """Raise `InvalidMessage` if there is no such script."""
        try:
            self._script(model.partition("/")[2])
        except Fault as fault:
            raise InvalidMessage(str(fault), field="$.model") from None

    async def complete(self, request: dict[str, Any]) -> Completion:
        """Answer with the script's turn for these messages. The same messages get the same answer."""
        model = str(request["model"])
        script = await asyncio.to_thread(self._script, model.partition("/")[2])
        turn = choose(script, request["messages"])
        if turn.step.delay_s:
            await asyncio.sleep(turn.step.delay_s)
        text = encode(turn.step.args).decode() + turn.step.say
        prompt = len(encode(request["messages"])) // _CHARACTERS_PER_TOKEN
        spoken = len(text) // _CHARACTERS_PER_TOKEN
        body = _shaped(model, turn, prompt, spoken, int(self._now().timestamp()))
        return Completion(body, prompt, spoken, 0.0)

    def _script(self, name: str) -> Script:
        if TOKEN.fullmatch(name):
            for directory in self._directories:
                file = directory / f"{name}.json"
                if file.is_file():
                    try:
                        return msgspec.json.decode(file.read_bytes(), type=Script)
                    except msgspec.DecodeError as error:
                        raise ModelFailed(f"the script {name} cannot be read: {error}") from None
        raise ModelUnknown(f"there is no script {name[:64]!r}", field="$.model")


def _shaped(model: str, turn: ScriptTurn, prompt: int, spoken: int, created: int) -> bytes:
    step = turn.step
    message: dict[str, Any] = {"role": "assistant", "content": step.say or None}
    if step.tool:
        arguments = encode(step.args).decode()
        digest = hashlib.sha256(f"{step.tool}{arguments}".encode()).hexdigest()[:12]
        function = {"name": step.tool, "arguments": arguments}
        message["tool_calls"] = [{"id": f"call_{turn.number}_{digest}", "type": "function", "function": function}]
    return encode(
        {
            "id": f"chatcmpl-{turn.number}",
            "object": "chat.completion",
            "created": created,
            "model": model,
            "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls" if step.tool else "stop"}],
            "usage": {"prompt_tokens": prompt, "completion_tokens": spoken, "total_tokens": prompt + spoken},
        }
    )
