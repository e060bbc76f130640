"""A running API serves the stored OpenAPI document and a page that loads nothing from other hosts."""

import re

import msgspec

from tests.contract.openapi import DOCUMENT
from tests.support.api import ApiProcess
from tests.support.caller import Caller


async def test_openapi_document_is_public_and_its_page_loads_only_from_the_api(api: ApiProcess):
    unknown = Caller(api, None)
    assert (await unknown.done("GET", "/openapi.json")) == msgspec.json.decode(DOCUMENT.read_bytes())
    page = await unknown.ask("GET", "/docs")
    policy = page.headers["content-security-policy"]
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in policy
    assert not re.search(r"https?:|\*", policy)
    loaded = re.findall(rb'(?:href|src)="([^"]+)"', page.body)
    assert len(loaded) == 3
    for needed in loaded:
        part = await unknown.ask("GET", needed.decode())
        assert part.status == 200
        assert part.headers["content-type"].split(";")[0] in ("text/css", "text/javascript", "image/png")
    assert (await unknown.ask("GET", "/static-offline-docs/none.js")).problem.status == 404
