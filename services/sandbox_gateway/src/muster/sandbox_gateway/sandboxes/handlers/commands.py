"""Handles requests about commands whose output is read while they run: starts them, reads their output, ends them."""

from collections import defaultdict

import msgspec

from muster.common.contracts.sandbox_commands import (
    MOST_COMMANDS,
    CommandOutput,
    EndCommand,
    ReadCommand,
    StartCommand,
)
from muster.common.faults import InvalidMessage, NotFound, TooMany
from muster.sandbox_gateway.providers.interface import ProcessState, Provider
from muster.sandbox_gateway.sandboxes.adapters.tokens import SandboxTokens
from muster.sandbox_gateway.sandboxes.adapters.workers import TIMED_OUT, SandboxWorkers, process_key
from muster.sandbox_gateway.sandboxes.domain.tokens import after_cut_line, redacted, whole_lines
from muster.sandbox_gateway.sandboxes.handlers.exec import SandboxExec
from muster.sandbox_gateway.sandboxes.handlers.resumption import SandboxResumption

COMMAND_S = 50.0
"""The deadline of one request in seconds. The provider may have to be asked over the internet."""


class SandboxCommands:
    """Commands in sandboxes that this gateway can reach.

    A command runs on if nobody reads its output, until its time is over. A sandbox runs at most `MOST_COMMANDS`
    commands that this gateway has started.
    """

    def __init__(
        self, sandboxes: SandboxExec, workers: SandboxWorkers, tokens: SandboxTokens, resumption: SandboxResumption
    ) -> None:
        self._sandboxes, self._workers, self._tokens = sandboxes, workers, tokens
        self._resumption = resumption
        self._started: defaultdict[str, set[str]] = defaultdict(set)
        """The keys of the commands of each sandbox that this gateway has started and not forgotten."""

    async def start(self, asked: StartCommand) -> CommandOutput:
        """Start a command, and return its state at once. A repeated request with the same key starts nothing.

        A sandbox at rest that is stopped at its provider is started, and not stopped again before the command's time.
        Raises `TooMany` if the sandbox runs too many commands.
        """
        record = await self._sandboxes.record(asked.sandbox_id)
        if not asked.key:
            raise InvalidMessage(
                "the command has no key; set one, so that a repeated request does not start it again", field="$.key"
            )
        provider = await self._resumption.provider_of(record, for_s=asked.timeout_s)
        if asked.key not in self._started[asked.sandbox_id]:
            await self._make_room(provider, asked.sandbox_id)
            self._started[asked.sandbox_id].add(asked.key)
        state = await self._workers.start_command(
            provider,
            record.create,
            asked.key,
            asked.command,
            asked.timeout_s,
            token=self._tokens.issue(record.create),
        )
        return _output(asked.key, state)

    async def read(self, asked: ReadCommand) -> CommandOutput:
        """Return output of a command: whole lines, and the rest when it has ended. Raises `NotFound`.

        Output that is no longer kept is skipped, and its bytes are counted.
        """
        provider = self._resumption.provider_as_is(await self._sandboxes.record(asked.sandbox_id))
        key = process_key(asked.key)
        state = await provider.poll(asked.sandbox_id, key)  # Before the output, so that nothing follows the end.
        if state is None:
            raise NotFound(f"this sandbox has no command {asked.key}; start it again", field="$.key")
        page = await provider.logs(asked.sandbox_id, key, offset=asked.offset, limit=asked.limit)
        full = len(page.body) >= asked.limit
        begin, body = page.next_offset - len(page.body), page.body
        if begin > asked.offset:
            while full and b"\n" not in page.body:
                page = await provider.logs(asked.sandbox_id, key, offset=page.next_offset, limit=asked.limit)
                full = len(page.body) >= asked.limit
            if state.running and not full and b"\n" not in page.body:
                return _output(asked.key, state, next_offset=asked.offset)  # The next read sees the same gap.
            body = after_cut_line(page.body)
            begin = page.next_offset - len(body)
        ended = (not state.running and not full) or (full and b"\n" not in body)
        shown = whole_lines(body, ended=ended)
        text = redacted(shown.decode(errors="replace"))
        found = _output(asked.key, state, text, begin + len(shown), more=full)
        return msgspec.structs.replace(found, lost_bytes=max(0, begin - asked.offset))

    async def end(self, asked: EndCommand) -> CommandOutput:
        """Kill a command if it runs, forget its output, and return its last state. Raises `NotFound`."""
        provider = self._resumption.provider_as_is(await self._sandboxes.record(asked.sandbox_id))
        key = process_key(asked.key)
        state = await provider.kill(asked.sandbox_id, key)
        await provider.forget(asked.sandbox_id, key)
        self._forget(asked.sandbox_id, asked.key)
        return CommandOutput(command_id=asked.key, running=False) if state is None else _output(asked.key, state)

    async def _make_room(self, provider: Provider, sandbox_id: str) -> None:
        """Forget commands that have ended if there are too many. Raises `TooMany` if too many run."""
        known = self._started[sandbox_id]
        if len(known) < MOST_COMMANDS:
            return
        for key in list(known):
            state = await provider.poll(sandbox_id, process_key(key))
            if state is None or not state.running:
                await provider.forget(sandbox_id, process_key(key))
                known.discard(key)
        if len(known) >= MOST_COMMANDS:
            raise TooMany(f"{len(known)} commands run in this sandbox; end one, or wait until one has ended")

    def _forget(self, sandbox_id: str, key: str) -> None:
        self._started[sandbox_id].discard(key)
        if not self._started[sandbox_id]:
            del self._started[sandbox_id]


def _output(
    key: str, state: ProcessState, text: str = "", next_offset: int = 0, *, more: bool = False
) -> CommandOutput:
    code = None if state.running else TIMED_OUT if state.timed_out else state.exit_code
    return CommandOutput(
        command_id=key,
        text=text,
        next_offset=next_offset,
        running=state.running or more,
        exit_code=code,
        seconds=state.seconds,
        timed_out=not state.running and state.timed_out,
    )
