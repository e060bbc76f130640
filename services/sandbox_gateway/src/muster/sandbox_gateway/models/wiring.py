"""Makes the model providers of the gateway and the HTTP endpoint that calls them, from the gateway's settings."""

import os

from muster.common.bus.connection import Bus
from muster.common.clock import Clock
from muster.common.described_model import described_entries
from muster.common.logs import log_to_stderr
from muster.common.model_keys import SCRIPTED
from muster.sandbox_gateway.http.access import WorkerAccess
from muster.sandbox_gateway.messages.store.inbox import InboxStore
from muster.sandbox_gateway.models.adapters.configured_models import ConfiguredModels
from muster.sandbox_gateway.models.adapters.litellm_models import LiteLLMModels
from muster.sandbox_gateway.models.adapters.registry import ModelProviders
from muster.sandbox_gateway.models.adapters.scripted import ScriptedModels
from muster.sandbox_gateway.models.adapters.threads import ModelThreads
from muster.sandbox_gateway.models.domain.model_names import ModelNames
from muster.sandbox_gateway.models.handlers.trial_calls import run_trial
from muster.sandbox_gateway.models.routes.completions import CompletionRoutes
from muster.sandbox_gateway.models.routes.failures import FailedCallLog
from muster.sandbox_gateway.models.routes.metering import MeteredModels
from muster.sandbox_gateway.models.routes.quota import ModelQuota
from muster.sandbox_gateway.models.store import ModelCallStore
from muster.sandbox_gateway.sandbox_log.store.log import SandboxLog
from muster.sandbox_gateway.settings import GatewaySettings, ModelFileSettings


def configured_models(settings: ModelFileSettings) -> ConfiguredModels:
    """Return the models of `models.toml`, and the model that variables such as LLM_BASE_URL describe."""
    return ConfiguredModels(settings.models_toml, os.environ, described_entries(os.environ))


def run_trial_calls(settings: ModelFileSettings) -> None:
    """Test one model for `muster model test`, which writes the request to stdin and reads the result from stdout."""
    log_to_stderr("test-model", level="ERROR")
    run_trial(configured_models(settings), settings.added_providers)


def model_providers(
    settings: GatewaySettings, threads: ModelThreads, configured: ConfiguredModels, names: ModelNames, now: Clock
) -> ModelProviders:
    """Return the model providers: `scripted` answers from scripts, and LiteLLM calls all other providers."""
    return ModelProviders(
        {SCRIPTED: ScriptedModels(settings.scripts, now)},
        otherwise=LiteLLMModels(threads, configured, timeout_s=settings.model_deadline_s),
        names=names,
        configured=configured.get,
    )


def completion_routes(
    settings: GatewaySettings,
    bus: Bus,
    log: SandboxLog,
    inbox: InboxStore,
    access: WorkerAccess,
    models: ModelProviders,
    names: ModelNames,
    calls: ModelCallStore,
) -> CompletionRoutes:
    """Return the HTTP endpoint of model calls, with the limits from the gateway's settings."""
    return CompletionRoutes(
        bus,
        log,
        inbox,
        MeteredModels(
            bus,
            models,
            calls,
            FailedCallLog(log),
            deadline_s=settings.model_deadline_s,
            most_timeouts=settings.model_timeouts if settings.model_breaker else None,
            most_failures=settings.model_failures if settings.model_breaker else None,
            most_tokens=settings.model_max_tokens,
        ),
        names,
        access,
        ModelQuota(most_parallel=settings.model_calls_parallel, per_minute=settings.model_calls_per_minute),
        allowed=settings.models,
        most_tokens=settings.model_max_tokens,
        remote_images=settings.model_remote_images,
    )
