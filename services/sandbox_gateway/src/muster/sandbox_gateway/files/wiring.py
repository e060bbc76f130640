"""Adds the requests about files, output and records of sandboxes to the gateway's service."""

from muster.common.bus.service import Service
from muster.common.contracts.sandbox_files import DiffSandbox, FetchFile, PutFile, ReadOutput
from muster.sandbox_gateway.files.handlers import FILE_S, FileRequests, ProviderOf
from muster.sandbox_gateway.sandboxes.store import SandboxStore


def register_handlers(service: Service, sandboxes: SandboxStore, provider_of: ProviderOf) -> None:
    """Register the handlers of this feature."""
    files = FileRequests(sandboxes, provider_of)
    service.handles(PutFile, files.put, deadline_s=FILE_S)
    service.handles(FetchFile, files.fetch, deadline_s=FILE_S)
    service.handles(ReadOutput, files.output, deadline_s=FILE_S)
    service.handles(DiffSandbox, files.diff, deadline_s=FILE_S)
