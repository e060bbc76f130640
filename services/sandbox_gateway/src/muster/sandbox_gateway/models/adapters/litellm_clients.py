"""Makes the HTTP clients with which LiteLLM calls the models of `models.toml`. They follow no redirects.

LiteLLM's own clients follow a redirect to any host, with the prompt and for some providers with the key. A call of a
configured model must go to the configured host or nowhere. A server on this machine is called without a proxy. The
clients also limit the size of an answer, because LiteLLM needs seconds for a long error page.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from muster.common.model_entries import ModelEntry, is_local

MOST_ANSWER_BYTES = 32 << 20
MOST_ERROR_BYTES = 16 << 10
"""The beginning of an error page that is read. The rest is dropped."""
_OPENAI_CLIENT = frozenset({"openai", "litellm"})
"""The kinds of servers that LiteLLM calls with the client of the package `openai`."""
_FIRST_ERROR = 400


class RedirectRefusedError(Exception):
    """The server of a configured model answered with a redirect, which the gateway does not follow."""


class AnswerTooLargeError(Exception):
    """The server of a configured model sent an answer of more than `MOST_ANSWER_BYTES`."""


class NoRedirects:
    """The HTTP clients for each event loop that runs model calls, because a client belongs to one event loop."""

    def __init__(self) -> None:
        self._handlers: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[bool, Any]] = WeakKeyDictionary()

    def get(self, entry: ModelEntry, target: Mapping[str, Any]) -> Any:  # noqa: ANN401 - of one of two libraries
        """Return the client for a call of an entry's model, for LiteLLM's parameter `client`.

        `target` contains the address (`api_base`) and the key (`api_key`) of the call. Must be called on the event loop
        that runs the call.
        """
        import httpx
        import openai
        from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler  # pyright: ignore[reportMissingTypeStubs]

        direct = is_local(entry.address)
        handlers = self._handlers.setdefault(asyncio.get_running_loop(), {})
        handler = handlers.get(direct)
        if handler is None:
            # LiteLLM repeats a call once with a new client of this handler if the connection ends during the call.
            hooks: dict[str, list[Callable[..., object]]] = {"response": [_check_response]}
            # With a transport of its own, the client ignores the proxies of the environment.
            transport = httpx.AsyncHTTPTransport() if direct else None
            handler = AsyncHTTPHandler(follow_redirects=False, event_hooks=hooks, transport=transport)
            handlers[direct] = handler
        if entry.kind in _OPENAI_CLIENT:
            return openai.AsyncOpenAI(
                api_key=target["api_key"], base_url=target["api_base"], http_client=handler.client, max_retries=0
            )
        return handler

    async def close(self) -> None:
        """Close the clients of the running event loop."""
        for handler in self._handlers.pop(asyncio.get_running_loop(), {}).values():
            await handler.client.aclose()


async def _check_response(response: Any) -> None:  # noqa: ANN401 - httpx is imported only for a call
    """Raise an error for a redirect, and limit the body. LiteLLM's own error about a redirect has no text."""
    import httpx

    if response.is_redirect:
        target = response.headers.get("location", "").partition("?")[0]
        raise RedirectRefusedError(f"the model's server redirects to {target[:300]}")

    class Bounded(httpx.AsyncByteStream):
        """The body of the response up to the limit."""

        def __init__(self, stream: Any) -> None:  # noqa: ANN401 - as above
            self._stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for piece in self._stream:
                size += len(piece)
                if response.status_code >= _FIRST_ERROR and size > MOST_ERROR_BYTES:
                    yield piece[: max(0, MOST_ERROR_BYTES - (size - len(piece)))]
                    return
                if size > MOST_ANSWER_BYTES:
                    raise AnswerTooLargeError(f"the answer has more than {MOST_ANSWER_BYTES >> 20} MiB")
                yield piece

        async def aclose(self) -> None:
            await self._stream.aclose()

    response.stream = Bounded(response.stream)
