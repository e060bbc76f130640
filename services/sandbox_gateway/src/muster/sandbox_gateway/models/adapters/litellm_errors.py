"""Converts the errors of LiteLLM to faults with the provider's own sentence, its status and the kind of failure."""

import json
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator
from socket import gaierror
from typing import Any, cast
from urllib.parse import quote

from muster.common.faults import Fault
from muster.common.model_entries import ModelEntry
from muster.common.model_keys import key_variables
from muster.sandbox_gateway.models.adapters.litellm_clients import RedirectRefusedError
from muster.sandbox_gateway.models.domain.provider_errors import (
    ModelContextExceeded,
    ModelFault,
    ModelKeyRefused,
    ModelRateLimited,
    ModelRefused,
    ModelServerFailed,
    ModelTimedOut,
    ModelUnknown,
    ModelUnreachable,
    ModelUnreadable,
)

_KEYLESS = re.compile(
    r"missing credentials|credentials were not found|unable to locate credentials"
    r"|api_key is not set|missing \w+ api key",
    re.IGNORECASE,
)
"""Error texts for a missing key, of providers that `model_keys` does not know. Their exception classes differ."""
_ADVICE = ". Handle with `litellm."
_NO_CREDIT, _QUOTA = 402, "insufficient_quota"
"""The status and the code of providers for a key without credit. A retry would not help."""
_TRACEBACK = "Traceback (most recent call last)"
_NO_PROVIDER = "LLM Provider NOT provided"
"""LiteLLM's error text for an unknown provider. Needed because the error has the same class as any bad request."""
_LONG_PROMPT = re.compile(
    r"context length|context window|context size|prompt is too long|maximum context|reduce the length|too many tokens"
    r"|exceeds? the (model's )?(maximum|available) (number of )?(input )?tokens",
    re.IGNORECASE,
)
"""Sentences of providers about a prompt that is longer than the model's context window."""
_UNREADABLE = re.compile(
    r"unable to get json|invalid response from LLM|expecting value|provider returned|must be a mapping|^'\w+'$",
    re.IGNORECASE,
)
"""LiteLLM's error texts for an answer of the wrong form. Their exception classes and statuses differ by provider."""
_PREFIXES = re.compile(r"^(litellm\.)?(\w+(Error|Exception|Timeout)|OpenAIException|\w+Exception)\s*[:-]\s*")
_CUT_OFF = re.compile(r"content length header|peer closed|not completed|incomplete|server disconnected", re.IGNORECASE)
"""Error texts of HTTP libraries for a connection that ended during the answer."""
_MOST_CHARS = 2000


def fault_of(
    litellm: Any,  # noqa: ANN401 - an untyped module
    error: Exception,
    model: str,
    entry: ModelEntry | None = None,
    *,
    secrets: Iterable[str] = (),
) -> Fault:
    """Return the fault for an error of a model call. `entry` is the entry of a configured model.

    Each of `secrets` is replaced in the text, because some providers repeat the key that they refuse.
    """
    hidden = list(secrets)
    text, status = sentence(error, hidden), _status(error)
    if redirect := next((cause for cause in _causes(error) if isinstance(cause, RedirectRefusedError)), None):
        made: ModelFault = ModelRefused(f"{redirect}; set base_url of the model to the right address")
    else:
        made = _refusal(litellm, error, model, text, entry) or _temporary(litellm, error, text, status, entry)
    made.args = (
        without_secrets(str(made), hidden).encode(errors="replace").decode(),
    )  # Texts of other libraries may contain a secret too.
    made.provider_status = status
    made.asked_pause_s = _asked_pause_s(error)
    return made


def sentence(error: Exception, secrets: Iterable[str] = ()) -> str:
    """Return a provider's own sentence, without secrets, class names and the traceback that LiteLLM adds to it.

    The traceback contains names of local files.
    """
    text = str(getattr(error, "message", "") or error).partition(_TRACEBACK)[0].partition(_ADVICE)[0].strip()
    while (short := _PREFIXES.sub("", text)) != text:
        text = short
    text = _message_in(text) or text or type(error).__name__
    return without_secrets(text, secrets)[:_MOST_CHARS]


def without_secrets(text: str, secrets: Iterable[str]) -> str:
    """Return the text with each secret replaced by `[key]`, also in the spellings of URLs, JSON and base64."""
    for secret in secrets:
        spellings = (
            secret,
            quote(secret, safe=""),
            json.dumps(secret)[1:-1],
            secret.replace("/", "\\/"),
            b64encode(secret.encode()).decode(),
        )
        for spelling in spellings:
            text = text.replace(spelling, "[key]")
    return text


def _message_in(text: str) -> str | None:
    """Return the message in a provider's JSON error, such as `{"error": {"message": "…"}}`."""
    start = text.find("{")
    if start < 0:
        return None
    try:
        found: object = json.JSONDecoder().raw_decode(text[start:])[0]
    except (ValueError, RecursionError):
        return None
    for name in ("error", "message", "detail"):
        if isinstance(found, dict) and name in found:
            found = cast("dict[str, object]", found)[name]
    if isinstance(found, dict):
        found = cast("dict[str, object]", found).get("message")
    return found if isinstance(found, str) and found.strip() else None


def _status(error: Exception) -> int | None:
    """Return the HTTP status of the provider's answer.

    LiteLLM invents a status for errors without an answer, and then has no headers of the provider.
    """
    status: object = getattr(error, "status_code", None)
    answered = bool(getattr(error, "litellm_response_headers", None))
    return status if isinstance(status, int) and 400 <= status < 600 and answered else None  # noqa: PLR2004 - HTTP's classes


def _asked_pause_s(error: Exception) -> float:
    headers: Any = getattr(error, "litellm_response_headers", None) or {}
    try:
        return max(0.0, float(headers.get("retry-after", 0)))
    except (TypeError, ValueError):
        return 0.0


def _temporary(litellm: Any, error: Exception, text: str, status: int | None, entry: ModelEntry | None) -> ModelFault:  # noqa: ANN401 - untyped
    if isinstance(error, litellm.RateLimitError):
        return ModelRateLimited(text)
    if isinstance(error, litellm.Timeout):
        return ModelTimedOut("the model did not answer in time")
    if _UNREADABLE.search(text):
        inner = "litellm." in text or text.startswith("'")
        return ModelUnreadable(f"the provider's answer cannot be read: {'its form is wrong' if inner else text}")
    if status is not None and status >= 500:  # noqa: PLR2004 - HTTP's server errors
        return ModelServerFailed(text)
    if connection := next((cause for cause in _causes(error) if isinstance(cause, _connection_errors())), None):
        return ModelUnreachable(_lost(connection, text, entry.address if entry else "the model's server"))
    return ModelUnreadable(f"the provider's answer cannot be read: {text}")


def _lost(error: BaseException, text: str, server: str) -> str:
    """Return the sentence about a connection that was not possible or that ended during the answer."""
    why = _deepest(error)
    if _CUT_OFF.search(f"{text} {why}"):
        return f"the connection to {server} ended during the answer"
    return f"no connection to {server}: {why}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _connection_errors() -> tuple[type[BaseException], ...]:
    import aiohttp
    import httpx
    import openai

    return ConnectionError, gaierror, httpx.TransportError, openai.APIConnectionError, aiohttp.ClientConnectionError


def _deepest(error: BaseException) -> str:
    """Return the text of the first cause of an error, because the client of OpenAI says only `Connection error.`."""
    texts = [str(cause) for cause in _causes(error) if str(cause)]
    return texts[-1][:300] if texts else type(error).__name__


def _refusal(
    litellm: Any,  # noqa: ANN401 - an untyped module
    error: Exception,
    model: str,
    text: str,
    entry: ModelEntry | None,
) -> ModelFault | None:
    """Return the fault for an error of LiteLLM if a retry of the call must fail too; None for other errors."""
    name = model[:200]
    if isinstance(error, litellm.AuthenticationError | litellm.PermissionDeniedError):
        held = entry.key_env or entry.key_file if entry else " or ".join(key_variables(model))
        place = held or ("--key-env or --key-stdin of `muster model add`" if entry else "its provider's variable")
        return ModelKeyRefused(
            f"the provider of {name} refuses this deployment's key ({type(error).__name__}: {text[:300]}): "
            f"set the right key in {place} where the stack is started"
        )
    no_credit = _status(error) == _NO_CREDIT or _QUOTA in str(error)
    if no_credit or _KEYLESS.search(text):
        why = "makes no more calls with this deployment's key" if no_credit else "finds no credentials"
        return ModelKeyRefused(f"the provider of {name} {why}: {text[:500]}")
    bad_request = isinstance(error, litellm.BadRequestError | litellm.UnprocessableEntityError)
    if isinstance(error, litellm.ContextWindowExceededError) or (bad_request and _LONG_PROMPT.search(text)):
        # OpenHands shortens the conversation if the text contains this phrase.
        return ModelContextExceeded(f"context length exceeded: {text}")
    if isinstance(error, litellm.NotFoundError) or _NO_PROVIDER in str(error):
        if entry:
            return ModelUnknown(f"the server of the model {name} at {entry.address} answers: {text[:500]}")
        return ModelUnknown(f"no provider has the model {name}; write provider/model, such as openai/gpt-5-mini")
    return ModelRefused(text) if bad_request else None
