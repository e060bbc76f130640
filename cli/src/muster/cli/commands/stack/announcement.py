"""Prints where the parts of a stack listen, which model keys it has found, and which commands to call next."""

import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from muster.cli.client.target import data_directory
from muster.cli.client.target_sources import quoted_path
from muster.cli.commands.stack.isolation_option import isolation_text, warn_of_weak_isolation
from muster.cli.console.output import OutputFormat, emit, say
from muster.common.model_entries import stored_models
from muster.embedded.ready import Ready

_NO_MODELS = "none: export a key such as OPENAI_API_KEY, or `muster model add`"


def _models(ready: Ready) -> str:
    """Return the names of the stored models and of the variables with model keys."""
    from muster.embedded.environment import PROXY_AND_TLS

    stored = stored_models(Path(ready.data_dir))
    keys = [name for name in ready.model_keys if name.upper() not in PROXY_AND_TLS]
    return ", ".join([*stored, *keys]) or _NO_MODELS


def announce(ready: Ready, form: OutputFormat, *, detached: bool) -> None:
    """Print the addresses of a started stack and the next commands on stderr; with `-o`, print data on stdout.

    Keys and passwords are not printed; they are in `ready.json`.
    """
    if form == "name":
        sys.stdout.write(f"{ready.data_dir}\n")
    elif form != "table":
        emit({name: getattr(ready, name) for name in ("api_url", "gateway_url", "pids", "pid", "data_dir")}, form)
    sys.stdout.flush()
    say("\n".join(announcement(ready, detached=detached)))
    warn_of_weak_isolation(ready)


def announcement(ready: Ready, *, detached: bool) -> Iterator[str]:
    """Yield the lines that `announce` prints on stderr."""
    data_dir = Path(ready.data_dir)
    rows = {
        "API": f"{ready.api_url}  (documentation: {ready.api_url}/docs)",
        "gateway": ready.gateway_url,
        "NATS": without_login(ready.nats_url),
        "PostgreSQL": without_login(ready.database_url),
        "data": ready.data_dir,
        "API key": f"in {data_dir / 'ready.json'}",
        "isolation": isolation_text(ready),
        "models": _models(ready),
    }
    yield "Muster is up."
    yield from (f"  {name:<11} {text}" for name, text in rows.items())
    yield "Next:"
    if data_dir != data_directory().resolve():
        yield f"  export MUSTER_DATA_DIR={quoted_path(data_dir)}"
    yield '  muster task submit "Fix the tests" --repo . --test "pytest -q" --model NAME'
    yield "  muster model add …       # adds a model endpoint of your own"
    yield "  muster ps                # shows the parts; muster logs shows their logs"
    yield "  muster down              # stops the stack" + ("" if detached else "; Ctrl-C stops it too")


def without_login(url: str) -> str:
    """Return a server's URL without user, password and query; an address that is not a URL becomes `set`."""
    parts = urlsplit(url)
    if not parts.hostname:
        return "set"
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"
