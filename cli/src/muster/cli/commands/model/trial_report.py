"""Says in words what the test of a model has found: the failure and its cure, or the measured values."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from muster.cli.commands.model.server_listing import ListingError, ServerModel, context_of, listed_models
from muster.cli.console.output import Exit
from muster.common.contracts.model_calls import FailureKind
from muster.common.contracts.model_tests import FailedTestCall, ModelTestResult
from muster.common.faults import InvalidMessage
from muster.common.model_entries import ModelEntry, key_of

SHOWN_MODELS = 12
"""The most names of models in one sentence."""
_ASK_S = 5.0
_EXITS: Mapping[FailureKind, Exit] = {
    "unreachable": Exit.UNREACHABLE,
    "timeout": Exit.TIMEOUT,
    "key_refused": Exit.AUTH,
    "unknown_model": Exit.NOT_FOUND,
}
_SETTINGS_CURE = ("Check the settings of the model: `muster model list`.", "")
_LATER = "Repeat the test later, or raise the limit at the provider."
_CURES: Mapping[FailureKind, tuple[str, str]] = {
    "unreachable": ("Is the server running at {address}?", "Check the network and the proxy."),
    "timeout": (
        "Does the server at {address} still load the model? Repeat with a longer --timeout, or look at its log.",
        "Repeat with a longer --timeout.",
    ),
    "rate_limited": (_LATER, _LATER),
    "server_error": ("Look at the log of the server at {address}.", "Repeat the test later."),
    "unreadable": (
        "Is {address} the right address? The one of a server with OpenAI's API usually ends with /v1.",
        "Repeat the test later.",
    ),
    "truncated": ("", ""),
    "empty": _SETTINGS_CURE,
    "context_overflow": ("Set --context-tokens of `muster model add` to the size that the server has.", ""),
    "refused": _SETTINGS_CURE,
    "limit": _SETTINGS_CURE,
}
"""What to do after a failure, for an entry and for a hosted model; empty if the error itself says it."""
NO_TOOLS = (
    "The model answers, but calls no tools, so an agent cannot work with it. Choose a model that can call tools, or "
    "switch tool calling on at the server (vLLM: --enable-auto-tool-choice and --tool-call-parser)."
)


def exit_of(result: ModelTestResult) -> Exit:
    """Return the exit code of a test: 0 only if the model answers and calls tools."""
    if result.failed:
        return _EXITS.get(result.failed.kind, Exit.FAILURE)
    return Exit.OK if result.calls_tools else Exit.FAILURE


def problem(result: ModelTestResult, entry: ModelEntry | None, path: Path) -> str:
    """Return the sentences about a failed test: the provider's own sentence and the cure; empty if it succeeded."""
    if result.failed:
        status = f", status {result.failed.status}" if result.failed.status else ""
        names = _names_at(entry, path) if entry and result.failed.kind == "unknown_model" else []
        text = f"the test of {result.model} failed ({result.failed.kind}{status}): {_sentence(result.failed.error)}"
        return f"{text} {cure(result.failed, result.model, entry, names)}".rstrip()
    if not result.calls_tools:
        return f"{_sentence(result.tool_error)} {NO_TOOLS}"
    return ""


def cure(failed: FailedTestCall, model: str, entry: ModelEntry | None, names: Sequence[ServerModel] = ()) -> str:
    """Return a sentence that says what to do. `names` are the models that the server has."""
    if failed.kind == "key_refused":
        return _key_cure(model, entry)
    if failed.kind == "unknown_model":
        return _model_cure(model, entry, names)
    if failed.kind == "timeout" and failed.step == "import":
        return "This machine is busy: repeat with a longer --timeout."
    own, hosted = _CURES[failed.kind]
    return own.format(address=entry.address) if entry else hosted


def _key_cure(model: str, entry: ModelEntry | None) -> str:
    if entry and not entry.key_env:
        where = f"The key is in the file {entry.key_file}" if entry.key_file else "The model has no key"
        return f"{where}: `muster model add {model} --replace … --key-stdin` stores another one."
    return ""  # The gateway's sentence names the variable.


def _model_cure(model: str, entry: ModelEntry | None, names: Sequence[ServerModel]) -> str:
    if not entry:
        return f"Check the name {model} in the provider's list of models."
    if not names:
        return f"Check the model's name at {entry.address}."
    return f"The server has: {shown_names(names)}."


def shown_names(models: Sequence[ServerModel]) -> str:
    """Return the names of models for a sentence, at most `SHOWN_MODELS` of them."""
    names = [model.name for model in models]
    more = f" and {len(names) - SHOWN_MODELS} more" if len(names) > SHOWN_MODELS else ""
    return ", ".join(names[:SHOWN_MODELS]) + more


def measured(result: ModelTestResult, entry: ModelEntry | None, path: Path) -> dict[str, Any]:
    """Return the measured values of a successful test, for `describe`."""
    return {
        "model": result.model,
        "calls": entry.litellm_name if entry else result.model,
        "address": entry.address if entry else None,
        "answer": result.answer,
        "latency": f"{result.latency_s:.2f} s" if result.latency_s is not None else None,
        "tokens": f"{result.prompt_tokens} in, {result.completion_tokens} out (both calls)",
        "tool calling": "yes" if result.calls_tools else "no",
        "price": f"known; the test cost {result.cost_usd:.6f} USD"
        if result.priced
        else "unknown, so --max-cost cannot limit a task (`muster model add … --input-price --output-price`)",
        "context": _context(entry, path) if entry else None,
    }


def context_tokens(entry: ModelEntry, path: Path) -> int | None:
    """Return the context size that the server reports; None if it reports none."""
    try:
        return context_of(entry, key_of(entry, path, os.environ), _ASK_S)
    except InvalidMessage:
        return None


def _context(entry: ModelEntry, path: Path) -> str | None:
    size = context_tokens(entry, path)
    if entry.context_tokens:
        return f"{entry.context_tokens} tokens (entry)" + (f"; the server says {size}" if size else "")
    return f"{size} tokens (the server says so)" if size else None


def _names_at(entry: ModelEntry, path: Path) -> list[ServerModel]:
    try:
        return listed_models(entry, key_of(entry, path, os.environ), _ASK_S)
    except (ListingError, InvalidMessage):
        return []


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."
