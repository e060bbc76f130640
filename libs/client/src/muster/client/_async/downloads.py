"""Reads large replies piece by piece, and verifies them by their digests."""

import hashlib
from collections.abc import AsyncGenerator

from muster.client._async.connection import AsyncApiConnection
from muster.client.errors import ApiStatusError, UnexpectedReplyError
from muster.client.http_messages import ERROR


async def read_verified(connection: AsyncApiConnection, path: str, sha256: str) -> AsyncGenerator[bytes]:
    """Yield the pieces of a reply. Raises an `ApiCallError`, also after the last piece if the digest is another one."""
    summed = hashlib.sha256()
    async with connection.stream("GET", path, headers={"Accept": "*/*"}) as (reply, pieces):
        if reply.status >= ERROR:
            body = b"".join([piece async for piece in pieces])
            raise ApiStatusError.of(reply.status, body, retry_after_s=reply.retry_after_s)
        async for piece in pieces:
            summed.update(piece)
            yield piece
    if summed.hexdigest() != sha256:
        raise UnexpectedReplyError(f"{connection.url} sent other bytes than those with the digest {sha256}")
