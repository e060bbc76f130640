"""`muster model add`, `list` and `remove` against servers of each shape, over real HTTP."""

import asyncio
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import override

import pytest
from click.testing import CliRunner, Result

from muster.cli.app import muster
from muster.cli.commands.model.server_listing import context_of, listed_models
from muster.common.model_entries import KINDS, Kind, ModelEntry, read_entries
from muster.embedded.ready import Ready
from muster.embedded.stack_directory import locked
from tests.support.command import MUSTER, environment
from tests.support.model_server import ConnectProxy, Good, Hang, ModelServer, Shape

KEY = "sk-canary-1"
ONE = {"only": Good()}
KIND_OF: dict[Shape, Kind] = {"openai": "openai", "vllm": "vllm", "anthropic": "anthropic", "ollama": "ollama"}


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [*os.environ]:
        if name.startswith(("MUSTER_", "LLM_", "OPENHANDS_")) or name.upper().endswith(("_PROXY", "_API_KEY")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MUSTER_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer("vllm", models={"a": Good(), "b": Good()}, key=KEY) as server:
        yield server


def run(*words: str, stdin: str = "", **env: str) -> Result:
    result = CliRunner().invoke(muster, ["model", *words], input=stdin, env=env)
    assert KEY not in result.output
    return result


def add(server: ModelServer, *words: str, **more: str) -> Result:
    return run("add", "m", "--kind", "vllm", "--base-url", server.api_base, "--key-stdin", *words, stdin=KEY, **more)


@pytest.mark.parametrize("shape", KIND_OF)
def test_server_with_one_model_needs_no_name_of_the_model(shape: Shape, data: Path) -> None:
    with ModelServer(shape, models=ONE, key=KEY) as server:
        told = run("add", "m", "--kind", KIND_OF[shape], "--base-url", server.api_base, "--key-env", "K", K=KEY)
    assert told.exit_code == 0, told.output
    assert read_entries(data / "models.toml")["m"].model.removesuffix(":latest") == "only"
    assert "muster model test m" in told.stderr


def test_several_models_are_listed_and_one_must_be_named(server: ModelServer, data: Path) -> None:
    told = add(server)
    assert (told.exit_code, told.stdout.split()) == (2, ["a", "b"])
    assert not (data / "models.toml").exists()
    assert add(server, "--model", "b").exit_code == 0


def test_model_that_the_server_lacks_is_refused_unless_the_check_is_off(server: ModelServer) -> None:
    told = add(server, "--model", "c")
    assert (told.exit_code, "It has: a, b." in told.stderr) == (3, True)
    asked = len(server.requests)
    assert add(server, "--model", "c", "--no-check").exit_code == 0
    assert len(server.requests) == asked


def test_wrong_key_and_closed_port_are_told_apart(server: ModelServer) -> None:
    told = run("add", "m", "--kind", "vllm", "--base-url", server.api_base, "--key-env", "K", K="wrong")
    assert (told.exit_code, "refuses the key" in told.stderr) == (4, True)
    with ModelServer("vllm") as closed:
        url = closed.api_base
    told = run("add", "m", "--kind", "vllm", "--base-url", url)
    assert (told.exit_code, f"Is the server running at {url}?" in told.stderr) == (7, True)


def test_existing_name_is_refused_before_a_key_is_read(server: ModelServer, data: Path) -> None:
    add(server, "--model", "a")
    told = run("add", "m", "--kind", "ollama", "--model", "x", "--key-stdin")
    assert (told.exit_code, "--replace" in told.stderr) == (5, True)
    assert read_entries(data / "models.toml")["m"].model == "a"


def test_key_stays_with_a_replaced_entry_only_at_the_same_address(server: ModelServer, data: Path) -> None:
    add(server, "--model", "a")
    same = ("add", "m", "--kind", "vllm", "--model", "b", "--replace")
    assert run(*same, "--base-url", server.api_base, "--temperature", "0").exit_code == 0
    assert read_entries(data / "models.toml")["m"].key_file == "model-keys/m"

    assert run(*same, "--base-url", "http://other/v1", "--no-check").exit_code == 0

    assert read_entries(data / "models.toml")["m"].key_file is None
    assert list((data / "model-keys").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "code", "names"),
    [
        ("m --kind vllm --key-env K --key-stdin", 2, "--key-stdin"),
        ("m --kind vllm --no-check", 2, "--model"),
        ("m --kind anthropic --model x", 2, "--key-env"),
        ("m --kind vllm --model x --temperature 3", 2, "--temperature"),
        ("m --kind vllm --model x --input-price=-1", 2, "--input-price"),
        ("m --kind vllm --model x --max-output-tokens 0", 2, "--max-output-tokens"),
        ("m --kind vllm --model x --base-url ftp://h", 2, "--base-url"),
        ("m --kind vllm --model x --base-url http://u:p@h", 2, "--base-url"),
        ("m --kind vllm --model x --key-env a-b", 2, "--key-env"),
        ("a/b --kind vllm --model x", 2, "NAME"),
        ("m --kind vllm --key-stdin --model x --no-check", 2, "--key-stdin"),
    ],
)
def test_wrong_option_is_named_and_nothing_is_stored(words: str, code: int, names: str, data: Path) -> None:
    told = run("add", *words.split())
    assert (told.exit_code, names in told.stderr) == (code, True), told.stderr
    assert not (data / "models.toml").exists()


def test_redirect_of_the_list_is_not_followed() -> None:
    class RedirectingHandler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(307)
            self.send_header("location", f"{other.api_base}/models")
            self.end_headers()

        @override
        def log_message(self, format: str, *args: object) -> None:
            pass

    with ModelServer("openai", key=KEY) as other, HTTPServer(("127.0.0.1", 0), RedirectingHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}/v1"
        told = run("add", "m", "--kind", "openai", "--base-url", base, "--key-env", "K", K=KEY)
        server.shutdown()
    assert (told.exit_code, "status 307" in told.stderr) == (2, True)
    assert other.connections == 0


async def test_only_the_configured_host_is_asked_through_a_proxy(server: ModelServer) -> None:
    # A server on this machine is called without a proxy, so the server has an invented name, which the proxy knows.
    proxy = ConnectProxy({"model.example": int(server.url.rpartition(":")[2])})
    base = server.api_base.replace(server.url, "http://model.example")
    async with proxy.listening() as url:
        options = ("--kind", "openai", "--base-url", base, "--key-env", "K", "--model", "a")
        told = await asyncio.to_thread(lambda: run("add", "m", *options, http_proxy=url, K=KEY))
        assert told.exit_code == 0, told.output
        asked = len(server.requests)
        await asyncio.to_thread(lambda: add(server, "--model", "a", "--replace", http_proxy=url))
        assert len(server.requests) > asked
    assert set(proxy.asked) == {"model.example:80"}


@pytest.mark.parametrize("shape", ["vllm", "ollama"])
def test_server_says_the_size_of_the_context_window(shape: Shape) -> None:
    with ModelServer(shape, models=ONE, context_length=12_345) as server:
        entry = ModelEntry(kind=KIND_OF[shape], model="only", base_url=server.api_base)
        assert context_of(entry, "") == 12_345
        assert len(listed_models(entry, "")) == 1


def test_list_shows_where_keys_are_and_never_a_key(server: ModelServer) -> None:
    add(server, "--model", "a", "--effort", "low")
    run("add", "other", "--kind", "openai", "--model", "x", "--no-check", "--key-env", "K")
    told = run("list", "-o", "json", OPENAI_API_KEY=KEY, LLM_MODEL="ollama/q", K=KEY)
    rows = {row["name"]: row for row in json.loads(told.stdout)}

    assert set(rows) == {"m", "other", "llm", "openai/…"}
    assert (rows["m"]["key"], rows["m"]["settings"]) == ("file", {"effort": "low"})
    assert rows["other"]["key"] == "K set"
    assert rows["llm"]["address"] == KINDS["ollama"].base_url
    assert rows["openai/…"]["key"] == "OPENAI_API_KEY set"
    assert max(map(len, run("list", COLUMNS="80").stdout.splitlines())) <= 80


def test_remove_deletes_the_key_only_after_a_yes(server: ModelServer, data: Path) -> None:
    add(server, "--model", "a")
    assert run("remove", "m").exit_code == 2
    assert run("remove", "m", "--yes").exit_code == 0
    assert list((data / "model-keys").iterdir()) == []
    assert run("remove", "m", "--yes").exit_code == 3


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (("--key-env", "NEW_KEY"), "started without NEW_KEY"),
        (("--key-env", "OLD_KEY"), "uses the model at once"),
        ((), "uses the model at once"),
    ],
)
def test_running_stack_is_restarted_only_for_a_variable_that_it_lacks(
    option: tuple[str, ...], says: str, data: Path
) -> None:
    data.mkdir()
    texts = dict.fromkeys(("api_url", "gateway_url", "nats_url", "database_url", "admin_key", "version"), "")
    Ready(**texts, pids={}, pid=os.getpid(), data_dir=str(data), model_keys=["OLD_KEY"]).write(data / "ready.json")
    with locked(data):
        told = run("add", "m", "--kind", "vllm", "--model", "x", "--no-check", *option)
    assert told.exit_code == 0
    assert says in told.stderr


def test_broken_file_is_named_and_kept(data: Path) -> None:
    data.mkdir()
    (data / "models.toml").write_text("[models.m]\nkind = 'vllm'\ntemprature = 1\n")
    for words in (
        ("list",),
        ("remove", "m"),
        ("test", "m"),
        ("add", "x", "--kind", "vllm", "--model", "y", "--no-check"),
    ):
        told = run(*words)
        assert (told.exit_code, "models.toml" in told.stderr) == (2, True), told.output
    assert "temprature" in (data / "models.toml").read_text()


def test_name_of_no_model_is_refused_without_a_call() -> None:
    told = run("test", "nothing")
    assert (told.exit_code, "muster model list" in told.stderr) == (3, True)
    assert run("test", "scripted/x").exit_code == 2


def test_test_of_a_model_without_its_key_ends_before_a_call(server: ModelServer) -> None:
    run("add", "m", "--kind", "vllm", "--base-url", server.api_base, "--model", "a", "--key-env", "K", "--no-check")
    told = run("test", "m", "-o", "json")
    body = json.loads(told.stdout)
    assert (told.exit_code, body["failed"]["kind"], body["failed"]["step"]) == (4, "key_refused", "import")
    assert "set K where the stack is started" in body["problem"]
    assert server.requests == []


@pytest.mark.stress
def test_test_of_a_model_runs_the_gateways_code_in_a_process_of_its_own(server: ModelServer) -> None:
    add(server, "--model", "a")
    told = run("test", "m", COLUMNS="80")
    assert (told.exit_code, "calls tools" in told.stderr) == (0, True), told.output
    assert "32768 tokens" in told.stdout

    server.script = [Hang()]
    body = json.loads(run("test", "m", "--timeout", "15", "-o", "json").stdout)
    assert body["failed"]["kind"] == "timeout"


@pytest.mark.parametrize(
    ("variable", "value"), [("OPENHANDS_TIMEOUT", "ten"), ("LLM_BASE_URL", "10.0.0.1"), ("LLM_MODEL", "a b/c")]
)
def test_start_of_a_stack_names_the_users_variable_with_a_wrong_value(variable: str, value: str, data: Path) -> None:
    env = {"LLM_MODEL": "m", "LLM_BASE_URL": "http://h/v1", variable: value}
    told = CliRunner().invoke(muster, ["up", "--isolation", "plain"], env=env)
    assert (told.exit_code, variable in told.stderr) == (2, True), told.output
    assert not (data / "ready.json").exists()


def test_terminal_shows_for_what_the_test_waits(data: Path) -> None:
    run("add", "m", "--kind", "vllm", "--model", "a", "--key-env", "K", "--no-check")
    ours, theirs = os.openpty()
    with (
        os.fdopen(ours, "rb", buffering=0) as terminal,
        subprocess.Popen(
            [MUSTER, "model", "test", "m"], stderr=theirs, env=environment(MUSTER_DATA_DIR=str(data), TERM="xterm")
        ) as process,
    ):
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # Linux raises EIO when the last process has closed the terminal.
            while part := terminal.read(4096):
                shown += part
    assert process.returncode == 4
    assert b"the test process starts" in shown
    assert b"Traceback" not in shown
