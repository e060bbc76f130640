"""The test of a model makes real calls over HTTP, to the configured server or nowhere."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path

import pytest

from muster.common.contracts.model_calls import FailureKind
from muster.common.contracts.model_tests import ModelTestRequest, ModelTestResult, ModelTestStep
from muster.common.model_entries import Kind
from muster.sandbox_gateway.models.adapters.configured_models import ConfiguredModels
from muster.sandbox_gateway.models.domain.model_names import ModelNames
from muster.sandbox_gateway.models.handlers.trial_calls import try_model
from tests.support.model_server import SHAPES, ConnectProxy, Good, Hang, ModelServer, Redirect, ServerError, Shape, Text
from tests.support.patience import PATIENCE_S

pytestmark = [
    pytest.mark.stress,  # The import of LiteLLM takes 5 s of CPU.
    pytest.mark.filterwarnings("ignore:Item '.*' on TypedDict class:UserWarning"),  # LiteLLM's types, at a first call.
]

KEY = "sk-canary-2"
KIND_OF: dict[Shape, Kind] = {"openai": "openai", "vllm": "vllm", "anthropic": "anthropic", "ollama": "ollama"}


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """Import LiteLLM before the first test, whose deadline would otherwise include the import."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import_module("litellm")


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[Shape, ModelServer]]:
    with ExitStack() as running:
        yield {shape: running.enter_context(ModelServer(shape, key=KEY)) for shape in SHAPES}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ]:
        if name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("K", KEY)


async def trial(
    tmp_path: Path,
    server: ModelServer,
    model: str = "good",
    *,
    key: str = "K",
    host: str | None = None,
    within_s: float = PATIENCE_S,
) -> tuple[ModelTestResult, list[ModelTestStep]]:
    base_url = server.api_base.replace(server.url, host or server.url)
    file = tmp_path / "models.toml"
    file.write_text(
        f'[models.m]\nkind = "{KIND_OF[server.shape]}"\nmodel = "{model}"\nbase_url = "{base_url}"\n'
        f'key_env = "{key}"\ncontext_tokens = 8000\n'
    )
    configured = ConfiguredModels(file, os.environ)
    steps: list[ModelTestStep] = []
    request = ModelTestRequest(model="m", ends_at_s=time.monotonic() + within_s)
    return await try_model(request, configured, ModelNames((), configured.get), steps.append), steps


@pytest.mark.parametrize("shape", SHAPES)
async def test_model_that_calls_tools_is_usable(
    tmp_path: Path, servers: dict[Shape, ModelServer], shape: Shape
) -> None:
    before = len(servers[shape].requests)
    result, steps = await trial(tmp_path, servers[shape])
    assert result.failed is None
    assert (result.calls_tools, steps) == (True, ["import", "word", "tool"])
    assert result.answer
    assert result.prompt_tokens > 0
    # Two calls and nothing else: no request for a price, for a list, or for the model's properties.
    assert [request.path for request in servers[shape].requests[before:]] == [servers[shape].completions[-1].path] * 2


@pytest.mark.parametrize(
    ("model", "kind", "says"),
    [
        ("cuda", "server_error", "CUDA out of memory"),
        ("limited", "rate_limited", ""),
        ("garbage", "unreadable", ""),
        ("empty", "empty", ""),
        ("length", "truncated", ""),
        ("absent", "unknown_model", "absent"),
    ],
)
async def test_failure_of_the_server_is_told_in_its_own_words(
    tmp_path: Path, servers: dict[Shape, ModelServer], model: str, kind: FailureKind, says: str
) -> None:
    result, _ = await trial(tmp_path, servers["vllm"], model)
    assert result.failed
    assert result.failed.kind == kind
    assert says in result.failed.error
    assert KEY not in result.failed.error


async def test_model_that_answers_with_text_calls_no_tools(tmp_path: Path, servers: dict[Shape, ModelServer]) -> None:
    result, _ = await trial(tmp_path, servers["openai"], "question")
    assert (result.failed, result.calls_tools) == (None, False)
    assert "Should I fix it?" in result.tool_error


async def test_missing_and_wrong_keys_are_told_apart_from_other_failures(
    tmp_path: Path, servers: dict[Shape, ModelServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(servers["vllm"].requests)
    missing, _ = await trial(tmp_path, servers["vllm"], key="NOT_SET")
    assert missing.failed
    assert (missing.failed.kind, "NOT_SET" in missing.failed.error) == ("key_refused", True)
    assert len(servers["vllm"].requests) == before

    monkeypatch.setenv("K", "wrong")
    wrong, _ = await trial(tmp_path, servers["vllm"])
    assert wrong.failed
    assert (wrong.failed.kind, wrong.failed.status) == ("key_refused", 401)


async def test_server_that_is_not_running_is_unreachable(tmp_path: Path) -> None:
    with ModelServer("vllm") as server:
        pass
    result, _ = await trial(tmp_path, server)
    assert result.failed
    assert result.failed.kind == "unreachable"


async def test_silent_server_ends_the_test_at_its_deadline(tmp_path: Path) -> None:
    with ModelServer("vllm", Hang()) as server:
        result, steps = await trial(tmp_path, server, within_s=1.0)
    assert result.failed
    assert (result.failed.kind, result.failed.step, steps[-1]) == ("timeout", "word", "word")


@pytest.mark.parametrize("shape", SHAPES)
async def test_redirect_to_another_host_gets_no_request(tmp_path: Path, shape: Shape) -> None:
    with ModelServer(shape) as other, ModelServer(shape, Redirect(other.completions_url)) as server:
        result, _ = await trial(tmp_path, server)
        assert other.connections == 0
    assert result.failed
    assert result.failed.kind == "refused"
    assert other.url in result.failed.error


@pytest.mark.parametrize("shape", SHAPES)
async def test_calls_go_only_to_the_configured_host(
    tmp_path: Path, servers: dict[Shape, ModelServer], shape: Shape, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A server on this machine is called without a proxy, so the server has an invented name, which the proxy knows.
    proxy = ConnectProxy({"model.example": int(servers[shape].url.rpartition(":")[2])})
    async with proxy.listening() as url:
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, url)
        with ModelServer(shape) as other:
            # Variables of providers must not lead a call to another server, such as LiteLLM's question for a price.
            for name in ("OLLAMA_API_BASE", "OPENAI_BASE_URL", "OPENAI_API_BASE", "ANTHROPIC_API_BASE"):
                monkeypatch.setenv(name, other.url)
            result, _ = await trial(tmp_path, servers[shape], host="http://model.example")
            assert other.connections == 0
    assert result.failed is None
    assert set(proxy.asked) == {"model.example:80"}


async def test_refusal_of_tools_is_told(tmp_path: Path) -> None:
    with ModelServer("vllm", Good((Text("ready"),)), ServerError("tools are broken")) as server:
        result, _ = await trial(tmp_path, server)
    assert result.answer == "ready"
    assert result.failed
    assert (result.failed.kind, result.failed.step) == ("server_error", "tool")
