"""The head of a request: which of its headers there is one of."""

from collections.abc import Iterable

from muster.common.faults import Fault

ONCE = (
    *("Authorization", "Content-Length", "Content-Type", "Host"),
    *("Idempotency-Key", "If-Match", "Last-Event-ID", "Transfer-Encoding"),
)
"""Of two of these nobody can say which counts; a proxy in front of us may have read the other one."""
_SPELLED = {name.lower().encode(): name for name in ONCE}


class Malformed(Fault):
    """The request contradicts itself."""

    status, code = 400, "malformed_request"


def refuse_repeated(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Raise `Malformed` for a header that is given twice, naming it. Names are lower-case, as ASGI has them."""
    names = [name for name, _ in headers]
    if len(set(names)) == len(names):
        return
    for name, spelled in _SPELLED.items():
        if names.count(name) > 1:
            raise Malformed(f"send one {spelled}; there are {names.count(name)}", field=spelled)
