"""Judges the answers of models: an answer that was cut at its limit, or that is empty, is a failed call.

A cut answer may contain half a tool call, which an agent cannot run, and an agent that repeats the request gets the
same half again. So the request is repeated with a higher limit, unless the sender of the request has set the limit.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from muster.sandbox_gateway.models.domain.provider_errors import ModelAnswerCut, ModelFault, ModelSilent

_CUT = "length"
_LEAST_TOKENS = 16_384
"""Output tokens of the first repeated request."""


class Completion(msgspec.Struct, frozen=True):
    """A model's answer in OpenAI's JSON format, the numbers of tokens that the call used, and its price in USD.

    `cost_usd` is None if the price is unknown. `finish_reason` is OpenAI's word for the end of the answer. `empty` is
    true if the answer contains neither text nor a tool call.
    """

    body: bytes
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float | None
    finish_reason: str = "stop"
    empty: bool = False


def trouble_with(answer: Completion) -> ModelFault | None:
    """Return the failure that an answer means, or None if the answer can be used."""
    if answer.finish_reason == _CUT:
        return ModelAnswerCut(
            f"the model's answer was cut at its limit, after {answer.completion_tokens:,} output tokens: set a higher "
            "limit (--max-output-tokens of `muster model add` or `muster task submit`) or a lower --effort"
        )
    if answer.empty:
        return ModelSilent("the model answered with neither text nor a tool call")
    return None


def larger_limit(request: Mapping[str, Any], answer: Completion | None, *, raised: int | None, most: int) -> int | None:
    """Return a higher limit of output tokens, at most `most`, for the next request; None if it cannot be raised.

    `raised` is the limit that this function returned for the present request. A limit of the request itself is not
    raised, because the task or the model's entry has set the limit.
    """
    if answer is None or answer.finish_reason != _CUT:
        return None
    if raised is None and any(name in request for name in ("max_tokens", "max_completion_tokens")):
        return None
    before = max(answer.completion_tokens, raised or 0)
    limit = min(max(2 * before, _LEAST_TOKENS), most)
    return limit if limit > before else None  # Each request at least doubles the limit, so there are only a few.
