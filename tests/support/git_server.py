"""A git server over HTTP, with git's own `http-backend`: it counts requests, demands a token, and fails on command."""

import base64
import os
import subprocess
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from muster.sandbox_gateway.repositories.adapters.git_host_rules import GitHostRules, Resolver, resolved
from tests.support.http_double import QuietHandler, serving_http

_IDENTITY = ["-c", "user.name=T", "-c", "user.email=t@t.invalid"]


def git(folder: Path, *args: str) -> str:
    """Run git in a folder, and return its output."""
    done = subprocess.run(["git", *_IDENTITY, *args], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def repository(folder: Path, files: Mapping[str, str | bytes] | None = None) -> Path:
    """Make a repository with one commit on the branch `main`."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    git(folder, "config", "receive.denyCurrentBranch", "ignore")
    return committed(folder, files or {"a.txt": "mine\n"})


def committed(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    """Add a commit with these files."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "change")
    return folder


def host_rules(
    folder: Path, toml: str = "", env: Mapping[str, str] | None = None, *, resolve: Resolver = resolved
) -> GitHostRules:
    """Return the rules of a `git.toml` with this text in `folder`."""
    (folder / "git.toml").write_text(toml)
    return GitHostRules(folder / "git.toml", env or {}, resolve=resolve)


@dataclass
class GitServer:
    """What the server does and has seen."""

    root: Path
    token: str = ""
    """The password that each request needs, for any user."""
    pushes: bool = True
    status: int = 0
    """The status of every answer, if not 0."""
    body: bytes = b""
    location: str = ""
    bytes_per_s: int = 0
    requests: list[str] = field(default_factory=list[str])
    credentials: list[str] = field(default_factory=list[str])
    sent: int = 0
    port: int = 0

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, name: str) -> str:
        return f"http://{self.host}/{name}"

    def toml(self, more: str = "") -> str:
        return f'[hosts."{self.host}"]\nallow_http = true\n{more}'

    @property
    def transfers(self) -> int:
        """The number of requests that asked for objects or refs."""
        return sum(request.startswith("POST") for request in self.requests)


@contextmanager
def git_server(root: Path) -> Generator[GitServer]:
    """Serve the repositories below `root` over HTTP."""
    told = GitServer(root)

    class Handler(QuietHandler):
        def do_GET(self) -> None:  # noqa: N802 - http.server calls this name
            self._serve()

        def do_POST(self) -> None:  # noqa: N802 - http.server calls this name
            self._serve()

        def _serve(self) -> None:
            told.requests.append(f"{self.command} {self.path}")
            told.credentials.append(self.headers.get("Authorization", ""))
            body = self._body()
            path, _, query = self.path.partition("?")
            if told.status:
                self._answer(told.status, {"Location": told.location} if told.location else {}, told.body)
            elif told.token and not self._knows(told.token):
                self._answer(401, {"WWW-Authenticate": 'Basic realm="git"'}, b"")
            elif not told.pushes and "git-receive-pack" in self.path:
                self._answer(403, {}, b"")
            else:
                self._backend(path, query, body)

        def _knows(self, token: str) -> bool:
            _, _, pair = self.headers.get("Authorization", "").partition(" ")
            return base64.b64decode(pair).decode().endswith(f":{token}")

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def _backend(self, path: str, query: str, body: bytes) -> None:
            env = {
                "PATH": os.environ["PATH"],
                "GIT_PROJECT_ROOT": str(told.root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "GIT_CONFIG_COUNT": "2",
                "GIT_CONFIG_KEY_0": "http.receivepack",
                "GIT_CONFIG_VALUE_0": "true",
                "GIT_CONFIG_KEY_1": "safe.directory",
                "GIT_CONFIG_VALUE_1": "*",
                "REQUEST_METHOD": self.command,
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                "REMOTE_USER": "tester",
                "REMOTE_ADDR": "127.0.0.1",
            }
            done = subprocess.run(["git", "http-backend"], input=body, env=env, capture_output=True, check=False)
            head, _, answer = done.stdout.partition(b"\r\n\r\n")
            headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
            status = int(headers.pop("Status", "200").split()[0])
            self._answer(status, headers, answer)

        def _answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            step = told.bytes_per_s // 20 or len(body) or 1
            for start in range(0, len(body), step):
                try:
                    self.wfile.write(body[start : start + step])
                except OSError:
                    return
                told.sent += len(body[start : start + step])
                if told.bytes_per_s:
                    time.sleep(0.05)  # the speed of a slow network

    with serving_http(Handler) as told.port:
        yield told
