"""Redacts large requests with many secrets in a thread, so that the gateway answers other sandboxes meanwhile."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from muster.sandbox_gateway.sandbox_log.domain.redaction import SecretRedactor

SHORT = 16 << 10
"""Most bytes of a body that is redacted at once. The work for each secret in it takes some ten microseconds."""
_threads = ThreadPoolExecutor(1, "redaction")
"""One thread for all sandboxes. A sandbox that posts nothing but secrets takes no more than one."""


async def redacted(redactor: SecretRedactor, body: bytes) -> bytes:
    """Return a body without its secrets: at once if it is short or has none, or else in a thread."""
    if not redactor.has_secret(body):
        return body
    if len(body) <= SHORT:
        return redactor.redacted(body)
    return await asyncio.get_running_loop().run_in_executor(_threads, redactor.redacted, body)
