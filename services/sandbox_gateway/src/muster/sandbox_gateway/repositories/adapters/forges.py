"""Opens pull requests with the API of GitHub, and merge requests with the API of GitLab, one for each task.

A request is looked up before one is opened. If two gateways open a request at the same time, the forge refuses the
second one, because it allows one open request for each branch.
"""

import asyncio
import ssl
from collections.abc import Mapping
from typing import Final, cast
from urllib.parse import quote, urlencode

import httpcore
import msgspec

from muster.common.faults import Fault, Forbidden, InvalidMessage, Unavailable
from muster.common.git_hosts import Forge, ListedHost
from muster.sandbox_gateway.repositories.domain.addresses import RemoteAddress
from muster.sandbox_gateway.repositories.domain.deliveries import DELIVER_FIELD

CALL_S: Final = 20.0
_MOST_BYTES = 8 << 20
_SHORTEST_REST_S, _LONGEST_REST_S = 60.0, 3_600
_UNANSWERED = (OSError, TimeoutError, httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException)


class RequestToOpen(msgspec.Struct, frozen=True):
    """A pull request that is to be opened. A request whose text contains `marker` is the task's own."""

    branch: str
    target: str
    title: str
    text: str
    marker: str


class PullRequest(msgspec.Struct, frozen=True):
    """A pull request of a forge."""

    url: str
    is_open: bool


class _Shape(msgspec.Struct, frozen=True):
    """The names that a forge's API uses."""

    path: str
    text: str
    source: str
    target: str
    url: str
    open_state: str
    taken: int
    """The status of the answer if the branch has an open request."""


_SHAPES: Final[Mapping[Forge, _Shape]] = {
    "github": _Shape("/repos/{name}/pulls", "body", "head", "base", "html_url", "open", 422),
    "gitlab": _Shape(
        *("/projects/{name}/merge_requests", "description", "source_branch", "target_branch"),
        *("web_url", "opened", 409),
    ),
}


class _ErrorBody(msgspec.Struct, frozen=True):
    """The body of an error response of a forge."""

    message: object = None
    error: object = None
    errors: object = None


class ForgeClient:
    """The API of one host's forge, for one repository."""

    def __init__(self, forge: Forge, listed: ListedHost, token: str, address: RemoteAddress) -> None:
        self._shape, self._listed, self._address = _SHAPES[forge], listed, address
        name = quote(address.name, safe="" if forge == "gitlab" else "/")
        self._url = f"{listed.api_url}{self._shape.path.format(name=name)}"
        self._owner = f"{address.name.partition('/')[0]}:" if forge == "github" else ""
        own = {"PRIVATE-TOKEN": token} if forge == "gitlab" else {"Authorization": f"Bearer {token}"}
        self._headers = {**own, "Accept": "application/json", "User-Agent": "muster"}

    async def find(self, wanted: RequestToOpen) -> PullRequest | None:
        """Return the task's own request in any state, or an open one for its branch; None if there is neither."""
        query = {self._shape.source: f"{self._owner}{wanted.branch}", "state": "all", "per_page": "100"}
        status, body = await self._call("GET", f"{self._url}?{urlencode(query)}", None)
        if status != 200 or not isinstance(body, list):  # noqa: PLR2004 - an HTTP status
            raise self._refused(status, body)
        found = [request for each in cast("list[object]", body) if (request := self._read(each, wanted))]
        return next((request for request in found if request.is_open), found[0] if found else None)

    async def open(self, wanted: RequestToOpen) -> PullRequest:
        """Open a request, or return the one that another gateway has opened meanwhile."""
        fields = {
            self._shape.source: wanted.branch,
            self._shape.target: wanted.target,
            "title": wanted.title,
            self._shape.text: wanted.text,
        }
        status, body = await self._call("POST", self._url, fields)
        if status == self._shape.taken and (found := await self.find(wanted)):
            return found
        if status != 201 or not isinstance(body, dict):  # noqa: PLR2004 - an HTTP status
            raise self._refused(status, body)
        return PullRequest(str(cast("dict[str, object]", body).get(self._shape.url, "")), is_open=True)

    def _read(self, each: object, wanted: RequestToOpen) -> PullRequest | None:
        if not isinstance(each, dict):
            return None
        fields = cast("dict[str, object]", each)
        is_open = fields.get("state") == self._shape.open_state
        own = wanted.marker in str(fields.get(self._shape.text) or "").splitlines()
        return PullRequest(str(fields.get(self._shape.url, "")), is_open) if is_open or own else None

    async def _call(self, method: str, url: str, fields: Mapping[str, str] | None) -> tuple[int, object]:
        body = b"" if fields is None else msgspec.json.encode(fields)
        headers = [*self._headers.items(), *([("Content-Type", "application/json")] if body else [])]
        answer = bytearray()
        try:
            async with (
                asyncio.timeout(CALL_S),
                httpcore.AsyncConnectionPool(ssl_context=ssl.create_default_context()) as pool,
                pool.stream(method, url, headers=headers, content=body) as response,
            ):
                async for chunk in response.aiter_stream():
                    answer += chunk
                    if len(answer) > _MOST_BYTES:
                        raise Unavailable(f"{self._listed.host} answered with over {_MOST_BYTES >> 20} MiB")
                status, rest = response.status, _rest_s(response)
        except _UNANSWERED as error:
            raise Unavailable(f"the API of {self._listed.host} did not answer: {type(error).__name__}") from None
        try:
            said = msgspec.json.decode(bytes(answer))
        except msgspec.DecodeError:
            said = None
        if status in (403, 429) and (rest is not None or "rate limit" in _message(said).lower()):
            limited = Unavailable(f"{self._listed.host} accepts no further requests for a while{_message(said)}")
            limited.retry_after_s = rest
            raise limited
        return status, said

    def _refused(self, status: int, body: object) -> Fault:
        said = _message(body)
        where = f"{self._listed.host} opens no pull request for {self._address.name} (status {status}{said})"
        if status in (401, 403, 404):
            return Forbidden(f"{where}. Give the token in git.toml the right to open pull requests")
        if status in (429, 200) or status >= 500:  # noqa: PLR2004 - HTTP statuses
            return Unavailable(where)
        if 300 <= status < 400:  # noqa: PLR2004 - HTTP statuses
            return InvalidMessage(f"{where}: it redirects; correct api_url in git.toml", field=DELIVER_FIELD)
        return InvalidMessage(where, field=DELIVER_FIELD)


def _rest_s(response: httpcore.Response) -> float | None:
    """Return the seconds for which a forge wants no further requests; None if the response names no such limit.

    GitHub sends the status 403 both to a token without rights and to a token with too many requests.
    """
    headers = {name.lower(): value for name, value in response.headers}
    after = headers.get(b"retry-after", b"")
    if after.isdigit():
        return float(min(int(after[:6]), _LONGEST_REST_S))
    return _SHORTEST_REST_S if headers.get(b"x-ratelimit-remaining") == b"0" else None


def _message(body: object) -> str:
    """Return the forge's own words about a refusal, as the end of a sentence; an empty string if there are none."""
    try:
        fields = msgspec.convert(body, _ErrorBody)
    except msgspec.ValidationError:
        return ""
    text = "; ".join(str(said) for said in (fields.message, fields.error, fields.errors) if said)
    return f": {''.join(letter if letter.isprintable() else ' ' for letter in text)[:300]}" if text else ""
