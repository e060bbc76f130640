"""`/openapi.json` and `/docs`: the description, for programs and for people. Everything is served from here."""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from pathlib import Path

from starlette.responses import Response

from muster.common.faults import NotFound
from muster.management_api.routes.described import Described
from muster.management_api.routes.operation import Asked, Operation

_PAGES = Path(__file__).parent / "pages"
_MEDIA: Mapping[str, str] = {
    "docs.html": "text/html; charset=utf-8",
    "docs.css": "text/css; charset=utf-8",
    "docs.js": "text/javascript; charset=utf-8",
    "icon.png": "image/png",
}
_MAY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The page's own files, and nothing from elsewhere or inline."""
FILES: Mapping[str, bytes] = {name: (_PAGES / name).read_bytes() for name in _MEDIA}


class Docs:
    """The description. It describes itself too."""

    def __init__(self) -> None:
        self._described: Described | None = None

    def operations(self) -> Iterable[Operation]:
        """The table."""
        of, says = Operation, "This description, for programs"
        yield of("GET", "/openapi.json", self.document, "get-openapi", says, reply=dict, key=False)
        top, says, found = "/", "Where this description is", HTTPStatus.TEMPORARY_REDIRECT
        yield of("GET", top, self.top, "get-top", says, reply=(), status=found, key=False)
        page, says = "/docs", "This description, for people"
        yield of("GET", page, self.page, "get-docs", says, reply="text/html", key=False)
        files, says = ("text/css", "text/javascript", "text/html", "image/png"), "What the page is made of"
        yield of("GET", f"{page}/{{file}}", self.file, "get-docs-file", says, reply=files, key=False)

    def describe(self, operations: Iterable[Operation]) -> None:
        """What there is to be described."""
        self._described = Described(operations)

    async def document(self, asked: Asked[None, None]) -> Response:
        """OpenAPI 3.1."""
        del asked
        assert self._described is not None
        return Response(self._described.written(), media_type="application/json")

    async def top(self, asked: Asked[None, None]) -> Response:
        """To the page for people: who opens the bare address wants to know what this is."""
        del asked
        return Response(status_code=HTTPStatus.TEMPORARY_REDIRECT, headers={"Location": "/docs"})

    async def page(self, asked: Asked[None, None]) -> Response:
        """Every operation with its parameters, schemas, examples and refusals, to be read and tried."""
        del asked
        return self._file("docs.html")

    async def file(self, asked: Asked[None, None]) -> Response:
        """The page's script and style."""
        return self._file(asked.request.path_params["file"])

    def _file(self, name: str) -> Response:
        if name not in FILES:
            raise NotFound("there is no such file", field="$.file")
        headers = {"Content-Type": _MEDIA[name], "Content-Security-Policy": _MAY, "Cache-Control": "no-cache"}
        return Response(FILES[name], headers=headers)
