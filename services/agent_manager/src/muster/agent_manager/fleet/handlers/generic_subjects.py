"""Serves the generic subjects `agent.manager.command` and `.query`, and publishes the outcomes of commands.

Users send requests to these subjects with the `nats` CLI. Each request names a verb, such as `start`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, override

import msgspec
import structlog

from muster.common.bus.command_audit import CommandAudit
from muster.common.bus.connection import Bus, FaultBody, Incoming
from muster.common.bus.headers import ERROR, ERROR_STATUS
from muster.common.bus.service import DRAIN_S, Endpoint, Service
from muster.common.contract import Answered, decode, encode
from muster.common.contracts.agent_process import (
    AgentManagerCommand,
    AgentManagerQuery,
    AgentManagerResponse,
    AgentResponse,
)
from muster.common.faults import Fault, InvalidMessage, TooMany, Transient
from muster.common.ids import Prefix

log = structlog.get_logger()

MOST_TOLD_BYTES = 256 << 10
"""The largest published result in bytes. A longer result is sent only to the requester."""
LONGEST_ECHO = 200
MOST_LONG_READS = 256
"""The largest number of log reads on the generic subject that one manager serves at the same time."""
LONG_READ = "logs"
LOOKS = "status"
"""The only verb on `agent.manager.command` that changes nothing."""
MINTED: Mapping[str, Prefix] = {"command_id": "req", "message_id": "msg"}
"""Ids that the manager creates if a command does not contain them."""

Handler = Callable[[Any], Awaitable[object]]


class UnknownCommand(InvalidMessage):
    """The requested verb does not exist; the error text lists the verbs."""

    code = "unknown_command"


class GenericVerbs:
    """The verbs of a generic subject, each with the contract and the handler of its typed subject."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self._verbs: dict[str, tuple[Any, Handler]] = {}

    def __contains__(self, verb: str) -> bool:
        return verb in self._verbs

    def add[C, R](self, verb: str, contract: Answered[C, R], handler: Callable[[C], Awaitable[R]]) -> None:
        """Add a verb with the contract of its request and the function that handles it."""
        self._verbs[verb] = (contract, handler)

    def read(self, verb: str, agent_id: str, params: dict[str, Any], bus: Bus) -> tuple[object, Handler]:
        """Return the typed command for a verb with parameters. Raises `InvalidMessage` with the invalid field."""
        contract, handler = self._verbs[verb]
        fields = dict(params)
        if "agent_id" in contract.__struct_fields__:
            if not agent_id:
                raise InvalidMessage(f"verb {verb} needs an agent; name it in agent_id", field="$.agent_id")
            fields["agent_id"] = agent_id
        for name, prefix in MINTED.items():
            if name in contract.__struct_fields__:
                fields.setdefault(name, bus.new_id(prefix))
        try:
            return msgspec.convert(fields, contract), handler
        except msgspec.ValidationError as error:
            fault = InvalidMessage.at(error, contract)
            raise InvalidMessage(str(fault), field=(fault.field or "$").replace("$.", "$.params.", 1)) from None

    def refuse(self, verb: str, elsewhere: "GenericVerbs") -> UnknownCommand:
        """Return the error for an unknown verb. The error text names the other generic subject if that has the verb."""
        there = f" (but there is on {elsewhere.subject})" if verb in elsewhere else ""
        known = ", ".join(sorted(self._verbs))
        text = f"there is no command {verb[:LONGEST_ECHO]!r} on {self.subject}{there}; choose one of {known}"
        return UnknownCommand(text, field="$.command")


class CommandOutcomes:
    """Publishes the outcome of every command in the format that the specification of the generic subjects defines."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    def success(self, verb: str, agent_id: str, reply: object) -> AgentResponse:
        """Return the response for a command that succeeded."""
        return AgentResponse(
            status="success",
            command=verb,
            agent_id=agent_id,
            result=msgspec.to_builtins(reply),
            error=None,
            timestamp=self._bus.now(),
        )

    def refusal(self, verb: str, agent_id: str, error: Exception) -> AgentResponse:
        """Return the response for a command that was refused or that failed with `error`."""
        fault = Fault.of(error)
        return self.refused(
            verb, agent_id, FaultBody(code=fault.code, status=fault.status, detail=str(fault), field=fault.field)
        )

    def refused(self, verb: str, agent_id: str, fault: FaultBody) -> AgentResponse:
        """Return the response for a refused command, made from the fault that describes the refusal."""
        return AgentResponse(
            status="error",
            command=verb[:LONGEST_ECHO],
            agent_id=agent_id[:LONGEST_ECHO],
            result=None,
            error=msgspec.to_builtins(fault),
            timestamp=self._bus.now(),
        )

    async def tell(self, response: AgentResponse) -> None:
        """Publish a response to all listeners. Never raises: a failure is logged."""
        fields = msgspec.structs.asdict(response)
        if len(encode(response.result)) > MOST_TOLD_BYTES:
            fields["result"] = {"omitted": "the result is too long to be published"}
        try:
            await self._bus.publish(AgentManagerResponse(**fields))
        except Exception as error:  # noqa: BLE001 - a lost publication must not fail the command
            log.warning("command outcome not published", command=response.command, error=str(error))


class GenericSubjects:
    """Handles requests on the generic subjects; replies in the generic format to invalid commands too."""

    def __init__(self, bus: Bus, commands: GenericVerbs, queries: GenericVerbs) -> None:
        self._bus, self._commands, self._queries = bus, commands, queries
        self._outcomes = CommandOutcomes(bus)

    async def command(self, asked: AgentManagerCommand) -> AgentResponse:
        """Handle a request on the generic subject `agent.manager.command`."""
        return await self._answer(self._commands, asked, elsewhere=self._queries)

    async def query(self, asked: AgentManagerQuery) -> AgentResponse:
        """Handle a request on the generic subject `agent.manager.query`."""
        return await self._answer(self._queries, asked, elsewhere=self._commands)

    def telling[C, R](self, verb: str, handler: Callable[[C], Awaitable[R]]) -> Callable[[C], Awaitable[R]]:
        """Return a handler that calls `handler` and also publishes the outcome of each command."""

        async def handled(command: C) -> R:
            agent_id = str(getattr(command, "agent_id", ""))
            try:
                reply = await handler(command)
            except Exception as error:
                await self._outcomes.tell(self._outcomes.refusal(verb, agent_id, error))
                raise
            await self._outcomes.tell(self._outcomes.success(verb, agent_id, reply))
            return reply

        return handled

    async def _answer(
        self, verbs: GenericVerbs, asked: AgentManagerCommand | AgentManagerQuery, *, elsewhere: GenericVerbs
    ) -> AgentResponse:
        verb = asked.command
        try:
            if verb not in verbs:
                raise verbs.refuse(verb, elsewhere)  # noqa: TRY301 - one path for all refusals
            command, handler = verbs.read(verb, asked.agent_id, asked.params, self._bus)
            response = self._outcomes.success(verb, asked.agent_id, await handler(command))
        except Exception as error:
            if not isinstance(error, Fault | Transient):
                log.exception("generic command failed", command=verb[:LONGEST_ECHO])
            response = self._outcomes.refusal(verb, asked.agent_id, error)
        await self._outcomes.tell(response)
        return response


class ManagerService(Service):
    """A service whose generic subjects reply in the generic format to every request, even if it is not JSON."""

    def __init__(
        self, name: str, bus: Bus, command_audit: CommandAudit | None = None, *, drain_s: float = DRAIN_S
    ) -> None:
        super().__init__(name, bus, drain_s=drain_s, command_audit=command_audit)
        self._outcomes = CommandOutcomes(bus)
        self._long_reads = asyncio.Semaphore(MOST_LONG_READS)

    @override
    async def _accept(self, endpoint: Endpoint, request: Incoming) -> None:
        slots = self._slots_for(endpoint, request)
        if slots is self._long_reads and slots.locked():
            # If the service waited here for a free slot, every other generic query would be delayed.
            text = f"the limit of {MOST_LONG_READS} log reads on this subject is reached; try again later"
            response = self._outcomes.refusal(*_named(request.data), TooMany(text))
            await self._outcomes.tell(response)
            await self._reply(request, encode(response), None)
            return
        await super()._accept(endpoint, request)

    @override
    def _slots_for(self, endpoint: Endpoint, request: Incoming) -> asyncio.Semaphore:
        """Give log reads separate request slots, so that clients that wait for log lines delay no other query."""
        if endpoint.contract is AgentManagerQuery and _named(request.data)[0] == LONG_READ:
            return self._long_reads
        return super()._slots_for(endpoint, request)

    @override
    async def _handle(self, endpoint: Endpoint, request: Incoming) -> tuple[bytes, dict[str, str] | None]:
        body, headers = await super()._handle(endpoint, request)
        if headers is None or endpoint.contract not in (AgentManagerCommand, AgentManagerQuery):
            return body, headers
        response = self._outcomes.refused(*_named(request.data), decode(body, FaultBody))
        await self._outcomes.tell(response)
        return encode(response), None

    @override
    def _tell(
        self,
        command_audit: CommandAudit,
        endpoint: Endpoint,
        request: Incoming,
        body: bytes,
        refusal: dict[str, str] | None,
    ) -> None:
        if endpoint.contract is not AgentManagerCommand:
            super()._tell(command_audit, endpoint, request, body, refusal)
            return
        response = decode(body, AgentResponse)  # A refusal on a generic subject is in the reply's body, not in headers.
        if response.command == LOOKS:
            return
        if response.error is not None:
            refusal = {ERROR: response.error["code"], ERROR_STATUS: str(response.error["status"])}
        command_audit.record(request, f"{response.command}-agent", refusal)


class _Named(msgspec.Struct):
    command: Any = ""
    agent_id: Any = ""


def _named(body: bytes) -> tuple[str, str]:
    """Return the verb and the agent id of an undecodable request, or empty texts where they cannot be read."""
    try:
        said = msgspec.json.decode(body, type=_Named)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        said = _Named()
    command, agent_id = (word if isinstance(word, str) else "" for word in (said.command, said.agent_id))
    return command, agent_id
