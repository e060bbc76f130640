"""A package index for pip and a registry for npm, each with one small package, served over HTTP on 127.0.0.2.

Programs reach 127.0.0.1 without a proxy, so the index has another address of this host.
"""

import base64
import hashlib
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ADDRESS = "127.0.0.2"
WHEEL = "tinypkg-1.0-py3-none-any.whl"


def _wheel() -> bytes:
    files = {
        "tinypkg.py": "ANSWER = 'from the index'\n",
        "tinypkg-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tinypkg\nVersion: 1.0\n",
        "tinypkg-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files["tinypkg-1.0.dist-info/RECORD"] = "".join(f"{name},,\n" for name in files)
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return body.getvalue()


def _tarball() -> bytes:
    files = {
        "package/package.json": json.dumps({"name": "tinypkg", "version": "1.0.0", "main": "index.js"}),
        "package/index.js": "module.exports = 'from the registry'\n",
    }
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return body.getvalue()


def npm_integrity() -> str:
    """Return the digest of the npm package, as a lock file names it."""
    return "sha512-" + base64.b64encode(hashlib.sha512(TARBALL).digest()).decode()


TARBALL = _tarball()


@contextmanager
def package_index() -> Generator[int]:
    """Serve the index while the block runs; yield its port."""
    files = {"/simple/tinypkg/": b"", f"/{WHEEL}": _wheel(), "/tinypkg/-/tinypkg-1.0.0.tgz": TARBALL}
    digest = hashlib.sha256(files[f"/{WHEEL}"]).hexdigest()
    files["/simple/tinypkg/"] = f'<a href="/{WHEEL}#sha256={digest}">{WHEEL}</a>'.encode()

    class Index(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = files.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "application/octet-stream")
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_request(self, code: object = "-", size: object = "-") -> None:
            """Log nothing."""

    server = ThreadingHTTPServer((ADDRESS, 0), Index)
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    serving.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        serving.join()
