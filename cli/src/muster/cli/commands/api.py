"""Implements `muster api`, which sends any request to the API and prints the response."""

import codecs
import sys
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import click
import msgspec

from muster.cli.client.target import TargetOptions
from muster.cli.commands.call_api import api_options, call
from muster.cli.console.output import Exit, fail, json_text, say
from muster.cli.console.params import parse_pair, read_value
from muster.common.terminal import printable_lines

if TYPE_CHECKING:
    from muster.client import AsyncMuster

METHODS = click.Choice(("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"), case_sensitive=False)
_WITHOUT_BODY = ("GET", "HEAD", "DELETE", "OPTIONS")
"""HTTP methods for which the fields of `-f` become the query instead of the body."""
_ERROR = 400
"""Lowest HTTP status that is an error."""


@click.command()
@click.argument("method", type=METHODS, metavar="METHOD")
@click.argument("path")
@click.option(
    *("-f", "--field", "fields"), multiple=True, metavar="KEY=VALUE", help="Add a text field; KEY:=JSON adds any value."
)
@click.option("-d", "--body", "body", metavar="JSON|@FILE|-", help="Send this text as the whole request body.")
@click.option("-H", "--header", "headers", multiple=True, metavar="NAME:VALUE", help="Add a header to the request.")
@click.option("-i", "--include", is_flag=True, help="Print the response's status and headers on stderr.")
@api_options
def api(
    method: str,
    path: str,
    *,
    fields: tuple[str, ...],
    body: str | None,
    headers: tuple[str, ...],
    include: bool,
    target: TargetOptions,
) -> None:
    """Send METHOD to PATH of the API and print the response; JSON is indented.

    METHOD is GET, POST, PUT, PATCH, DELETE, HEAD or OPTIONS. PATH begins with a slash: /api/v1/agents. The
    fields of -f become the query of a GET, HEAD, DELETE or OPTIONS, and the JSON body of any other method. An error
    response is printed too, and its status sets the exit code.
    """
    if not path.startswith("/"):
        fail(f"PATH {path!r} does not begin with a slash. Give a path such as /api/v1/agents", Exit.USAGE)
    if body is not None and fields and method not in _WITHOUT_BODY:
        raise click.UsageError(f"-f and -d both set the body of a {method}: give only one of them")
    values = dict(map(_field, fields))
    query = [
        (name, value if isinstance(value, str) else msgspec.json.encode(value).decode())
        for name, value in values.items()
    ]
    sent_headers = dict(map(_header, headers))
    data = None if body is None else _body(body, sent_headers)
    if values and method not in _WITHOUT_BODY:
        data, query = msgspec.json.encode(values), []
    if data is not None and "content-type" not in map(str.lower, sent_headers):
        sent_headers["Content-Type"] = "application/json"

    async def act(client: "AsyncMuster") -> None:
        from muster.client.time_limits import DEADLINE_S, SILENCE_S

        accepts_events = any("event-stream" in value for value in sent_headers.values())
        live = accepts_events or path.partition("?")[0].endswith("/events")
        async with client.connection.stream(
            *(method, path),
            content=data,
            query=query,
            headers=sent_headers,
            silence_s=SILENCE_S if live else DEADLINE_S,
        ) as (reply, chunks):
            if include:
                say(f"HTTP {reply.status}\n" + "".join(f"{name}: {value}\n" for name, value in reply.headers.items()))
            await _print(reply.headers.get("content-type", ""), chunks)
        if reply.status >= _ERROR:
            from muster.client.errors import ApiStatusError

            raise ApiStatusError(reply.status)

    call(target, act)


async def _print(content_type: str, chunks: AsyncIterator[bytes]) -> None:
    """Print a response body: indented JSON when the whole body has arrived, any other type chunk by chunk."""
    out = sys.stdout.buffer
    if "json" not in content_type:
        # A chunk may end within a UTF-8 character, so the decoder keeps the incomplete bytes until the next chunk.
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        async for chunk in chunks:
            out.write(printable_lines(decoder.decode(chunk)).encode() if sys.stdout.isatty() else chunk)
            out.flush()
        return
    body = b"".join([chunk async for chunk in chunks])
    try:
        out.write(json_text(msgspec.json.format(body)).encode() + b"\n" if body else b"")
    except (msgspec.DecodeError, UnicodeDecodeError):
        out.write(printable_lines(body.decode(errors="replace")).encode() if sys.stdout.isatty() else body)
    out.flush()


def _field(word: str) -> tuple[str, Any]:
    name, value = parse_pair(word, "a field")
    if not name.endswith(":"):
        return name, value
    try:
        return name[:-1], msgspec.json.decode(value)
    except msgspec.DecodeError as error:
        fail(f"-f {name}=… needs a JSON value: {error}", Exit.USAGE)


def _header(word: str) -> tuple[str, str]:
    name, separator, value = word.partition(":")
    if not separator or not name.strip() or not (word.isascii() and word.isprintable()):
        raise click.UsageError(f"-H needs NAME:VALUE in printable ASCII, not {word!r}")
    return name.strip(), value.strip()


def _body(word: str, headers: dict[str, str]) -> bytes:
    """Return the request body of `-d`; end the command if the body is not JSON and no header sets a content type."""
    data = read_value(word, "-d")
    if "content-type" not in map(str.lower, headers):
        try:
            msgspec.json.decode(data)
        except msgspec.DecodeError as error:
            fail(f"-d must be JSON: {error}", Exit.USAGE)
    return data
