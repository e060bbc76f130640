"""The error of a failed model call shows a sandbox no path of the gateway's machine."""

import asyncio
from pathlib import Path

import pytest

from muster.sandbox_gateway.models.adapters.configured_models import ConfiguredModels
from muster.sandbox_gateway.models.adapters.litellm_models import LiteLLMModels
from muster.sandbox_gateway.models.adapters.threads import ModelThreads
from muster.sandbox_gateway.models.domain.provider_errors import ModelFault


async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


@pytest.mark.stress  # The import of LiteLLM takes 5 s of CPU.
async def test_failure_in_litellm_is_reported_without_its_traceback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server, threads = await asyncio.start_server(silent, "127.0.0.1", 0), ModelThreads()
    monkeypatch.setenv("GEMINI_API_BASE", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    # No HTTP header can contain this key, so LiteLLM itself fails.
    monkeypatch.setenv("GEMINI_API_KEY", "a-key-with-a-line-end\n")
    try:
        with pytest.raises(ModelFault, match="Forbidden control character") as refused:
            await LiteLLMModels(threads, ConfiguredModels(tmp_path / "models.toml", {}), timeout_s=10.0).complete(
                {"model": "gemini/gemini-2.0-flash", "messages": [{"role": "user", "content": "hi"}]}
            )
    finally:
        threads.close()
        server.close()
    assert "Traceback" not in str(refused.value)
    assert ".py" not in str(refused.value)
    assert "a-key" not in str(refused.value)
