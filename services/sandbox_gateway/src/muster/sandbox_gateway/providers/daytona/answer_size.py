"""Bounds the bytes that the gateway reads of an answer from inside a sandbox.

The agent may replace the programs in its sandbox, and so let a command print without end. The SDK reads an answer as a
whole before it decodes it. So this module reads the answer first, up to a bound, with the SDK's own HTTP client.
Downloads of files are streams, which the SDK does not read as a whole.
"""

from typing import Any

import aiohttp
from daytona import AsyncDaytona

MOST_ANSWER_BYTES = 8 << 20
"""Most bytes of an answer. The longest regular one is a piece of output in base64, with less than 2 MiB."""


def bound_answers(client: AsyncDaytona) -> None:
    """Let every request of the client into a sandbox fail with a `ClientPayloadError` if its answer is too long."""
    rest_client: Any = client._toolbox_api_client.rest_client  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    request = rest_client.request

    async def bounded(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - the SDK's signature
        answer = await request(*args, **kwargs)
        answer.data = await _read(answer.response)
        return answer

    rest_client.request = bounded


async def _read(response: aiohttp.ClientResponse) -> bytes:
    pieces, size = list[bytes](), 0
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > MOST_ANSWER_BYTES:
            response.close()
            raise aiohttp.ClientPayloadError(f"the answer from inside the sandbox exceeds {MOST_ANSWER_BYTES} bytes")
        pieces.append(piece)
    return b"".join(pieces)
