"""What can be asked of the API: one object per method and path. It parses, calls its handler and answers faults.

A handler says in its signature what it takes: `async def list(self, asked: Asked[AgentQuery, None]) -> Response`. The
query's and the body's types are read from there, what arrives is checked against them, and the document describes them.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from datetime import datetime
from typing import Any, get_args, get_type_hints

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from muster.common.contract import token
from muster.common.faults import Fault, InvalidMessage
from muster.common.ids import NewId, Prefix, derived_id
from muster.management_api.domain.principals import Principal
from muster.management_api.domain.requests import refuse_unstorable
from muster.management_api.routes.answers import refusal
from muster.management_api.routes.bodies import body

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Handler = Callable[[Any], Awaitable[Response]]

_WHOLE = re.compile(r"-?[0-9]{1,18}")
_NUMBER = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?")
_PLACE = re.compile(r"{(\w+)}")


class Asked[Q, B]:
    """One request as its handler sees it: query and body are what the handler said it takes."""

    def __init__(self, request: Request, query: Q, body: B) -> None:
        self.request, self.query, self.body = request, query, body

    def id(self, name: str) -> str:
        """An id out of the path; known to be a token."""
        return self.request.path_params[name]

    @property
    def caller(self) -> Principal:
        """Who asks, as the door has found out."""
        return self.request.scope["principal"]

    @property
    def who(self) -> str:
        """His name."""
        return self.caller.name

    def mint(self, prefix: Prefix, new_id: NewId) -> str:
        """A new id; under an `Idempotency-Key` always the same one, so that a repetition makes nothing twice."""
        seed: bytes | None = self.request.scope.get("seed")
        return new_id(prefix) if seed is None else derived_id(prefix, seed)


class Operation:
    """One method of one path."""

    def __init__(
        self,
        method: str,
        path: str,
        handler: Handler,
        name: str,
        summary: str,
        *,
        reply: type | str | tuple[type | str, ...],
        status: int = 200,
        refusals: Iterable[int] = (),
        key: bool = True,
        optional_body: bool = False,
        versioned: bool = False,
        conditional: bool = False,
        resumable: bool = False,
        secret: bool = False,
    ) -> None:
        """`reply`: contracts and media types that it answers; `key=False`: open to anybody.

        `versioned`: the answer has an ETag; `conditional`: the request must name one; `resumable`: it is a feed;
        `secret`: the answer holds a secret and is kept nowhere.
        """
        self.method, self.path, self.handler, self.name, self.summary = method, path, handler, name, summary
        self.replies = reply if isinstance(reply, tuple) else (reply,)
        self.status, self._refusals = status, frozenset(refusals)
        self.key, self.optional_body = key, optional_body
        self.versioned, self.conditional, self.resumable, self.secret = versioned, conditional, resumable, secret
        self.idempotent = method == "POST"
        self.ids = tuple(_PLACE.findall(path))
        self._tokens = tuple(name for name in self.ids if name.endswith("_id"))
        self.query, self.body = get_args(get_type_hints(handler)["asked"])
        if self.query is type(None):
            self.query = None
        if self.body is type(None):
            self.body = None
        self._read = reading(self.query) if self.query else None

    @property
    def refused(self) -> frozenset[int]:
        """Every status of a refusal."""
        refused = set(self._refusals)
        if self.key:
            refused |= {401, 403, 429, 503, 504}
        if self.ids:
            refused |= {404, 422}
        if self.query:
            refused.add(422)
        if self.body:
            refused |= {408, 413, 415, 422}
        if self.idempotent:
            refused |= {408, 409, 413, 422}
        if self.conditional:
            refused |= {412, 422, 428}
        return frozenset(refused)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        try:
            request = Request(scope, receive)
            for name in self._tokens:
                token(request.path_params[name], name)
            query = self._read(request) if self._read else None
            sent = await body(request, self.body, optional=self.optional_body) if self.body else None
            response = await self.handler(Asked(request, query, sent))
        except Fault as fault:
            response = refusal(fault)
        await response(scope, receive, send)


def reading[Q: msgspec.Struct](type_: type[Q]) -> Callable[[Request], Q]:
    """How a query string becomes a `Q`. An unknown or repeated parameter is a mistake, and is named."""
    kinds = {field.encode_name: _kind(field.type) for field in msgspec.structs.fields(type_)}

    def read(request: Request) -> Q:
        given: dict[str, Any] = {}
        for name, value in request.query_params.multi_items():
            if kinds.get(name) is list:
                given.setdefault(name, []).append(value)
            elif name in given:
                raise InvalidMessage(f"{name} is given twice", field=f"$.{name}"[:200])
            else:
                given[name] = _spoken(value, kinds.get(name, str))
        refuse_unstorable(given)
        try:
            asked = msgspec.convert(given, type_)
        except msgspec.ValidationError as error:
            raise InvalidMessage.at(error, type_) from None
        refuse_unstorable(msgspec.to_builtins(asked, builtin_types=(datetime,)))
        return asked

    return read


def _kind(annotation: Any) -> type:  # noqa: ANN401 - a type form
    """What a parameter's text stands for: bool, int, float, list, or str for all the rest."""
    found = msgspec.inspect.type_info(annotation)
    if isinstance(found, msgspec.inspect.UnionType):
        found = next(one for one in found.types if not isinstance(one, msgspec.inspect.NoneType))
    match found:
        case msgspec.inspect.BoolType():
            return bool
        case msgspec.inspect.IntType():
            return int
        case msgspec.inspect.FloatType():
            return float
        case msgspec.inspect.ListType():
            return list
        case _:
            return str


def _spoken(text: str, kind: type) -> object:
    """`text` as the value it spells; as it is where it spells none, for the type to refuse."""
    if kind is bool:
        return {"true": True, "false": False}.get(text, text)
    if kind is int and _WHOLE.fullmatch(text):
        return int(text)
    if kind is float and _NUMBER.fullmatch(text):
        return float(text)
    return text
