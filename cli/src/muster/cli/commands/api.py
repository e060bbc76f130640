"""`muster api`: any route of the API, as it answers."""

import codecs
import sys
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import click
import msgspec

from muster.cli.client.target import TargetOptions
from muster.cli.commands.call_api import api_options, call
from muster.cli.console.output import Exit, fail, json_text, say
from muster.cli.console.params import content, pair
from muster.common.terminal import printable_lines

if TYPE_CHECKING:
    from muster.cli.client.api import ApiClient

METHODS = click.Choice(("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"), case_sensitive=False)
_BODILESS = ("GET", "HEAD", "DELETE", "OPTIONS")
_ERROR = 400


@click.command()
@click.argument("method", type=METHODS, metavar="METHOD")
@click.argument("path")
@click.option("-f", "--field", "fields", multiple=True, metavar="KEY=VALUE", help="A text field; KEY:=JSON for others.")
@click.option("-d", "--body", "body", metavar="JSON|@FILE|-", help="The whole body.")
@click.option("-H", "--header", "headers", multiple=True, metavar="NAME:VALUE", help="A header of the request.")
@click.option("-i", "--include", is_flag=True, help="Show the answer's status and headers on stderr.")
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
    """Send METHOD to PATH and print what it answers, JSON indented.

    METHOD is GET, POST, PUT, PATCH, DELETE, HEAD or OPTIONS. PATH begins with a slash: /api/v1/agents. Fields become
    the query of a GET, HEAD or DELETE and otherwise a JSON body. A refusal is printed too, and the exit code says its
    kind.
    """
    if not path.startswith("/"):
        fail(f"PATH begins with a slash, as in /api/v1/agents, not {path!r}", Exit.USAGE)
    if body is not None and fields and method not in _BODILESS:
        raise click.UsageError("-f and -d exclude each other where both make the body")
    given = dict(map(_field, fields))
    query = [
        (name, value if isinstance(value, str) else msgspec.json.encode(value).decode())
        for name, value in given.items()
    ]
    sent = dict(map(_header, headers))
    data = None if body is None else _body(body, sent)
    if given and method not in _BODILESS:
        data, query = msgspec.json.encode(given), []
    if data is not None and "content-type" not in map(str.lower, sent):
        sent["Content-Type"] = "application/json"

    async def act(client: "ApiClient") -> None:
        from muster.cli.client.api import DEADLINE_S
        from muster.cli.client.connection import SILENCE_S

        live = any("event-stream" in value for value in sent.values()) or path.partition("?")[0].endswith("/events")
        wait_s = SILENCE_S if live else DEADLINE_S
        connection = client.connection
        async with connection.stream(method, path, content=data, query=query, headers=sent, answer_s=wait_s) as (
            answer,
            chunks,
        ):
            if include:
                say(f"HTTP {answer.status}\n" + "".join(f"{name}: {value}\n" for name, value in answer.headers.items()))
            await _print(answer.headers.get("content-type", ""), chunks)
        if answer.status >= _ERROR:
            from muster.cli.client.api_call_error import ApiCallError, exit_code

            text = f"the API answered {answer.status}"
            raise ApiCallError(text, exit_code(answer.status), status=answer.status)

    call(target, act)


async def _print(kind: str, chunks: AsyncIterator[bytes]) -> None:
    out = sys.stdout.buffer
    if "json" not in kind:
        whole = codecs.getincrementaldecoder("utf-8")("replace")  # a character may lie in two chunks
        async for chunk in chunks:
            out.write(printable_lines(whole.decode(chunk)).encode() if sys.stdout.isatty() else chunk)
            out.flush()
        return
    body = b"".join([chunk async for chunk in chunks])
    try:
        out.write(json_text(msgspec.json.format(body)).encode() + b"\n" if body else b"")
    except (msgspec.DecodeError, UnicodeDecodeError):
        out.write(printable_lines(body.decode(errors="replace")).encode() if sys.stdout.isatty() else body)
    out.flush()


def _field(word: str) -> tuple[str, Any]:
    name, value = pair(word, "a field")
    if not name.endswith(":"):
        return name, value
    try:
        return name[:-1], msgspec.json.decode(value)
    except msgspec.DecodeError as error:
        fail(f"-f {name}=… must be JSON: {error}", Exit.USAGE)


def _header(word: str) -> tuple[str, str]:
    name, found, value = word.partition(":")
    if not found or not name.strip() or not (word.isascii() and word.isprintable()):
        raise click.UsageError(f"a header is NAME:VALUE, not {word!r}")
    return name.strip(), value.strip()


def _body(word: str, headers: dict[str, str]) -> bytes:
    """As it was given; unless another kind of content is named it must be JSON, so that a slip is told here."""
    data = content(word, "-d")
    if "content-type" not in map(str.lower, headers):
        try:
            msgspec.json.decode(data)
        except msgspec.DecodeError as error:
            fail(f"-d must be JSON: {error}", Exit.USAGE)
    return data
