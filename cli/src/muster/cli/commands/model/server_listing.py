"""Asks a model server for the names of its models. The request goes to the server's address or nowhere."""

import http.client
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, cast, override

import msgspec

from muster.common.model_entries import ModelEntry, is_local

LISTING_DEADLINE_S = 10.0
_MAX_BYTES = 8 << 20
_ANTHROPIC_VERSION = "2023-06-01"


class ServerModel(NamedTuple):
    """A model of a server, and the size of its context window in tokens if the server says it."""

    name: str
    context_tokens: int | None = None


class ListingError(Exception):
    """The server did not list its models. `kind` is `no_list` if the server works, but has no such list."""

    def __init__(self, kind: Literal["unreachable", "key_refused", "no_list"], text: str) -> None:
        super().__init__(text)
        self.kind = kind


def listed_models(entry: ModelEntry, key: str, timeout_s: float = LISTING_DEADLINE_S) -> list[ServerModel]:
    """Return the models of the server of an entry, sorted by name. Raises `ListingError`."""
    found = _request(_listing_url(entry), _headers(entry, key), timeout_s)
    models: Any = found.get("models" if entry.kind == "ollama" else "data")
    if not isinstance(models, list):
        raise ListingError("no_list", f"the server at {entry.address} lists no models")
    rows = [cast("dict[str, Any]", row) for row in cast("list[Any]", models) if isinstance(row, dict)]
    named = [ServerModel(str(row.get("id") or row.get("name") or ""), _context(row)) for row in rows]
    return sorted(model for model in named if model.name)


def context_of(entry: ModelEntry, key: str, timeout_s: float = LISTING_DEADLINE_S) -> int | None:
    """Return the size of the context window in tokens that the server reports for an entry's model, or None."""
    try:
        if entry.kind == "ollama":
            body = msgspec.json.encode({"model": entry.model})
            shown = _request(f"{entry.address}/api/show", _headers(entry, key), timeout_s, body)
            info: Any = shown.get("model_info")
            sizes = cast("dict[str, Any]", info) if isinstance(info, dict) else {}
            return next((_size(size) for name, size in sizes.items() if name.endswith(".context_length")), None)
        models = listed_models(entry, key, timeout_s)
    except ListingError:
        return None
    return next((model.context_tokens for model in models if model.name == entry.model), None)


def has_model(entry: ModelEntry, models: list[ServerModel]) -> bool:
    """Return whether the entry's model is among the models. Ollama adds `:latest` to a name without a tag."""
    names = {model.name for model in models}
    return entry.model in names or (entry.kind == "ollama" and f"{entry.model}:latest" in names)


def _listing_url(entry: ModelEntry) -> str:
    match entry.kind:
        case "ollama":
            return f"{entry.address}/api/tags"
        case "anthropic":
            return f"{entry.address.removesuffix('/v1')}/v1/models?limit=1000"
        case _:
            return f"{entry.address}/models"


def _headers(entry: ModelEntry, key: str) -> dict[str, str]:
    if entry.kind == "anthropic":
        return {"x-api-key": key, "anthropic-version": _ANTHROPIC_VERSION}
    return {"Authorization": f"Bearer {key}"} if key else {}


def _opener(url: str) -> urllib.request.OpenerDirector:
    """Return an opener that follows no redirect, and that calls a server on this machine without a proxy."""
    direct = (urllib.request.ProxyHandler({}),) if is_local(url) else ()
    return urllib.request.build_opener(NoRedirectHandler, *direct)


class NoRedirectHandler(urllib.request.HTTPRedirectHandler):
    """Refuses redirects, because a redirect could send the key to another host."""

    @override
    def redirect_request(self, *_: object, **__: object) -> None:
        return None


def _request(url: str, headers: Mapping[str, str], timeout_s: float, body: bytes | None = None) -> dict[str, Any]:
    # Only http and https addresses pass the check of an entry.
    request = urllib.request.Request(url, body, {"Accept": "application/json", **headers})  # noqa: S310 - the user chose the address
    try:
        with _opener(url).open(request, timeout=timeout_s) as response:
            answer = response.read(_MAX_BYTES)
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(error.code, url) from None
    except urllib.error.URLError as error:
        raise ListingError("unreachable", f"no answer from {url}: {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        raise ListingError("unreachable", f"no answer from {url}: {error or type(error).__name__}") from None
    except ValueError:  # The error's own text could contain the key.
        raise ListingError("key_refused", "the key cannot be sent, because it is not printable ASCII") from None
    try:
        return msgspec.json.decode(answer, type=dict[str, Any])
    except msgspec.DecodeError:
        raise ListingError("no_list", f"the answer of {url} is not a JSON object") from None


def _refusal(status: int, url: str) -> ListingError:
    if status in (401, 403):
        return ListingError("key_refused", f"{url} refuses the key (status {status})")
    return ListingError("no_list", f"{url} answers with status {status}")


def _context(row: Mapping[str, Any]) -> int | None:
    """Return the context size of a listed model: vLLM says `max_model_len`, OpenRouter `context_length`."""
    return _size(row.get("max_model_len")) or _size(row.get("context_length")) or _size(row.get("max_input_tokens"))


def _size(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
