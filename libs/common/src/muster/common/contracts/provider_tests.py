"""The result of a test of a provider, which `muster doctor` reads from the process that tested it."""

from typing import Literal

from muster.common.contract import Message

ProviderTestStep = Literal["settings", "create", "command", "delete"]


class ProviderTestResult(Message):
    """How a test of a provider ended. `failed` is the step that failed, and `error` the sentence for the operator."""

    provider: str
    seconds: float
    failed: ProviderTestStep | None = None
    error: str = ""
