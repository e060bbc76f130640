"""Handles requests that look into a sandbox: collects evidence about its worker, and runs commands in its workspace."""

from muster.common.clock import Clock
from muster.common.contract import token
from muster.common.contracts.gateway import CollectEvidence, Evidence, ExecInSandbox, SandboxOutput
from muster.common.faults import Fault, InvalidMessage, NotFound
from muster.sandbox_gateway.sandbox_log.store.log import SandboxLog
from muster.sandbox_gateway.sandboxes.adapters.tokens import SandboxTokens
from muster.sandbox_gateway.sandboxes.adapters.workers import SandboxWorkers
from muster.sandbox_gateway.sandboxes.domain.lifecycle import SandboxRecord
from muster.sandbox_gateway.sandboxes.domain.tokens import redacted
from muster.sandbox_gateway.sandboxes.handlers.resumption import SandboxResumption
from muster.sandbox_gateway.sandboxes.store import SandboxStore

EXEC_S = 3600.0
_TAIL_BYTES = 64 << 10
_LONGEST_COMMAND_S = EXEC_S - 30


class SandboxExec:
    """Collects evidence from sandboxes that this gateway can reach, and runs shell commands in their workspaces."""

    def __init__(
        self,
        sandboxes: SandboxStore,
        log: SandboxLog,
        workers: SandboxWorkers,
        tokens: SandboxTokens,
        resumption: SandboxResumption,
        now: Clock,
    ) -> None:
        self._sandboxes, self._log, self._workers = sandboxes, log, workers
        self._tokens, self._resumption, self._now = tokens, resumption, now

    async def evidence(self, command: CollectEvidence) -> Evidence:
        """Collect evidence about a worker: its exit code, the end of its output, and the number of its unsent events.

        If a part cannot be read, the request succeeds without the part, and `missing` names the part and the reason
        (invariant I8).
        """
        record = await self.record(command.sandbox_id)
        provider = self._resumption.provider_as_is(record)
        missing = list[str]()
        output, exit_code, events_on_disk = b"", record.exit_code, None
        tail = await self._log.tail(command.sandbox_id)
        next_seq = tail.next if tail else 1
        try:
            process = await provider.poll(command.sandbox_id)
            if process is None:
                missing.append("exit code: the provider has no record of the worker")
            else:
                exit_code = process.exit_code
            output = (await provider.logs(command.sandbox_id, offset=-_TAIL_BYTES, limit=_TAIL_BYTES)).body
        except Fault as fault:
            missing.append(f"output: {fault}")
        try:
            events_on_disk = await provider.recorded_events(command.sandbox_id)
            if events_on_disk is None:
                missing.append("unsent: the sandbox has no record of events on its disk")
        except (Fault, OSError) as error:
            missing.append(f"unsent: {error}")
        return Evidence(
            sandbox_id=command.sandbox_id,
            at=self._now(),
            next_seq=next_seq,
            exit_code=exit_code,
            output_tail=redacted(output.decode(errors="replace")),
            unsent=None if events_on_disk is None else max(0, events_on_disk - (next_seq - 1)),
            missing=missing,
        )

    async def exec(self, command: ExecInSandbox) -> SandboxOutput:
        """Run a shell command in a sandbox's workspace and return the command's output.

        A repeated request with the same key returns the output of the first run. Raises `InvalidMessage` or `NotFound`.
        """
        record = await self.record(command.sandbox_id)
        if not command.key:
            raise InvalidMessage(
                "the command has no key; set one, so that a repeated request does not run it again", field="$.key"
            )
        if not 0 < command.timeout_s <= _LONGEST_COMMAND_S:
            raise InvalidMessage(f"timeout_s must be above 0 and at most {_LONGEST_COMMAND_S:g}", field="$.timeout_s")
        provider = await self._resumption.provider_of(record, for_s=command.timeout_s)
        token = self._tokens.issue(record.create)
        return await self._workers.run(
            provider, record.create, command.key, command.command, command.timeout_s, token=token
        )

    async def record(self, sandbox_id: str) -> SandboxRecord:
        """Return the record of a sandbox that has a workspace. Raises `NotFound`."""
        record = await self._sandboxes.get(token(sandbox_id, "sandbox_id"))
        if record is None:
            raise NotFound(f"there is no sandbox {sandbox_id}", field="$.sandbox_id")
        if record.state == "deleted":
            raise NotFound(f"the sandbox {sandbox_id} was deleted with its workspace", field="$.sandbox_id")
        return record
