"""The model provider `scripted`: its models answer from JSON scripts, for tests and demonstrations."""

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from muster.common.clock import Clock
from muster.common.contract import TOKEN, encode
from muster.common.faults import Fault, InvalidMessage
from muster.sandbox_gateway.models.domain.answers import Completion
from muster.sandbox_gateway.models.domain.provider_errors import ModelUnknown, ModelUnreadable
from muster.sandbox_gateway.models.domain.script import Script, ScriptTurn, choose

_CHARACTERS_PER_TOKEN = 4


class ScriptedModels:
    """Answers calls of the model `scripted/<name>` from `<name>.json` in the first directory that has this file."""

    def __init__(self, directories: Sequence[Path], now: Clock) -> None:
        self._directories, self._now = directories, now

    def provider_of(self, model: str) -> str:
        """Return `scripted`, so that the record of a metered call shows that no hosted model has answered."""
        return model.partition("/")[0]

    async def price(self, model: str, prompt_tokens: int, completion_tokens: int) -> float | None:  # noqa: ARG002 - as the protocol says
        """Return 0 USD, because a call of a scripted model costs nothing."""
        return 0.0

    async def prepare(self) -> None:
        """Do nothing, because a scripted model is ready at once."""

    def check(self, model: str) -> None:
        """Raise `InvalidMessage` if no readable script has the model's name."""
        try:
            self._script(model.partition("/")[2])
        except Fault as fault:
            raise InvalidMessage(str(fault), field="$.model") from None

    async def complete(self, request: dict[str, Any]) -> Completion:
        """Return the answer that the script has for the request's messages. The same messages get the same answer."""
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
                        raise ModelUnreadable(f"the model script {name} cannot be read: {error}") from None
        raise ModelUnknown(f"there is no model script {name[:64]!r}", field="$.model")


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
