"""Takes the API's URL and key from the arguments of a client, or else from the environment."""

import os
import re
from typing import NamedTuple
from urllib.parse import urlsplit

from muster.client.errors import ClientSettingsError

URL_VARIABLE, KEY_VARIABLE = "MUSTER_API_URL", "MUSTER_API_KEY"


class ClientSettings(NamedTuple):
    """The URL of an API without a trailing slash, and the key for this API."""

    url: str
    key: str

    def __repr__(self) -> str:
        return f"ClientSettings({self.url!r})"


def client_settings(url: str | None, key: str | None) -> ClientSettings:
    """Return the URL and the key; read a value that is None from the environment.

    Raises `ClientSettingsError` if the URL or the key is missing or not valid.
    """
    url = (os.environ.get(URL_VARIABLE, "") if url is None else url).strip()
    key = (os.environ.get(KEY_VARIABLE, "") if key is None else key).strip()
    if not url:
        raise ClientSettingsError(f"the URL of the API is missing: pass `url`, or set {URL_VARIABLE}")
    if not _is_http(url):
        raise ClientSettingsError(
            f"{_without_password(url)!r} is not a URL of an API. Give http://HOST:PORT or https://HOST, without a user "
            "name, a query or a fragment"
        )
    if not key:
        raise ClientSettingsError(f"the key for {url} is missing: pass `key`, or set {KEY_VARIABLE}")
    if not (key.isascii() and key.isprintable()):
        raise ClientSettingsError(f"the key for {url} may contain only printable ASCII: copy the key again")
    return ClientSettings(url.rstrip("/"), key)


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        place = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return place and url.isascii() and url.isprintable() and not set("@?#") & set(url)


def _without_password(url: str) -> str:
    """Return the URL without the part that may contain a password."""
    return re.sub(r"//[^/]*@", "//…@", url)
