"""The description as a running API serves it: the document that is kept, and a page that needs nothing from elsewhere."""

import re

import msgspec

from tests.contract.openapi import WRITTEN
from tests.support.api import ApiProcess
from tests.support.caller import Caller


async def test_anybody_may_read_what_the_api_is(api: ApiProcess):
    nobody = Caller(api, None)
    assert (await nobody.done("GET", "/openapi.json")) == msgspec.json.decode(WRITTEN.read_bytes())
    page = await nobody.ask("GET", "/docs")
    policy = page.headers["content-security-policy"]
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in policy
    assert not re.search(r"unsafe|https?:|\*|data:", policy)
    assert b'="data:' not in page.body  # what the policy blocks
    for needed in re.findall(rb'(?:href|src)="(/docs/[^"]+)"', page.body):
        part = await nobody.ask("GET", needed.decode())
        assert part.status == 200
        assert part.headers["content-type"].split(";")[0] in ("text/css", "text/javascript", "image/png")
    assert (await nobody.ask("GET", "/docs/docs.py")).problem.status == 404
