"""The fold: a pure function that makes decisions from the frames and inputs of a sandbox in their recorded order.

The fold reads no clock and performs no I/O. Its time is the time of the frame or input. Ids are hashes of values from
frames and inputs. So the same frames and inputs always give exactly the same decisions (I9). The refold, the replay of
the logs after a crash, relies on this.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import chain

from muster.common.contract import decode
from muster.common.contracts.guardian import GuardianRecord
from muster.common.contracts.sandbox_log import Frame, FrameKind, LoggedEvent, Seen
from muster.guardian.detectors.interface import Finding
from muster.guardian.detectors.registry import new_detectors
from muster.guardian.journal.domain.decisions import (
    Decision,
    FindingDecision,
    Issued,
    Reached,
    Unresponsive,
    id_from,
)
from muster.guardian.journal.domain.inputs import (
    MessageRefused,
    MessageSent,
    Policy,
    ReplaceAnswered,
    SilenceObserved,
    SteerRequested,
    read_input,
)
from muster.guardian.steering.domain import Intervention
from muster.guardian.trajectories.domain.agent_events import Acted, Observed, Spoke, read
from muster.guardian.trajectories.domain.steps import Step

KEPT = 200
"""The largest number of steps, and of actions without a result, that a trajectory keeps."""
SENDER = "guardian"
"""The sender of messages that the guardian sends because of a finding."""


class Trajectory:
    """The state of one sandbox, derived from the frames and inputs so far.

    `position` is the stream position of the last frame. `next` is the number of the next event. `at` is the time of the
    last frame or input.
    """

    def __init__(self, sandbox_id: str) -> None:
        self.sandbox_id = sandbox_id
        self.task_id = self.agent_id = ""
        self.epoch = 0
        self.position, self.next = 0, 1
        self.at = datetime.fromtimestamp(0, UTC)
        self.finished = self.ended = False
        self.policy: Policy | None = None
        self.unresponsive: Unresponsive | None = None
        self.replace_answered = False
        self.steps: deque[Step] = deque(maxlen=KEPT)
        self.interventions: dict[str, Intervention] = {}
        self._awaiting: OrderedDict[str, Acted] = OrderedDict()
        self._detectors = new_detectors()

    @property
    def live(self) -> bool:
        """Whether the worker of the sandbox should be running."""
        return bool(self.task_id) and not self.finished and not self.ended

    @property
    def pending_messages(self) -> list[Issued]:
        """Messages that the guardian has issued and that the gateway has not answered yet."""
        if self.ended:
            return []
        return [intervention.issued for intervention in self.interventions.values() if intervention.unanswered]

    @property
    def pending_replacement(self) -> Unresponsive | None:
        """The decision to replace the attempt, until the agent manager has answered it; else None."""
        return self.unresponsive if self.live and not self.replace_answered else None

    def take_frame(self, frame: Frame, position: int) -> list[Decision]:
        """Fold a frame at its stream position and return the decisions; ignore a frame that was folded before."""
        if position <= self.position:
            return []
        self.task_id, self.agent_id, self.epoch = frame.task_id, frame.agent_id, frame.epoch
        self.position, self.at = position, frame.at
        made = list(self._frame(frame, f"sandbox_log@{position}"))
        self.next = max(self.next, frame.next)
        return made

    def take_input(self, record: GuardianRecord) -> list[Decision]:
        """Fold an input record and return the resulting decisions."""
        self.at = record.at
        return list(self._input(record, f"guardian_log#{record.n}"))

    def _frame(self, frame: Frame, cites: str) -> Iterator[Decision]:
        for event in frame.events:
            if event.seq >= self.next:
                yield from self._event(event)
        match frame.kind:
            case FrameKind.SEEN:
                seen = decode(bytes(frame.body), Seen)
                if intervention := self.interventions.get(seen.message_id):
                    yield from intervention.reach("seen", cites, detail=seen.request_id)
            case FrameKind.FINISHED:
                self.finished = True
                yield from self._each(lambda intervention: intervention.finished(cites))
            case FrameKind.FENCED | FrameKind.CLOSED:
                self.ended = True
                yield from self._each(lambda intervention: intervention.ended(cites, frame.kind.value))
            case _:
                pass
        yield from self._each(lambda intervention: intervention.time_passes(frame.at, cites))

    def _event(self, event: LoggedEvent) -> Iterator[Decision]:
        match read(event):
            case Spoke(seq=seq, by_agent=False, steering=steering):
                self._reset_detectors()
                if steering is not None and (intervention := self.interventions.get(steering)):
                    yield from intervention.delivered(seq)
            case Acted() as acted:
                self._awaiting[acted.refs[0]] = acted
                if len(self._awaiting) > KEPT:
                    self._awaiting.popitem(last=False)
                yield from self._each(lambda intervention: intervention.acted(acted))
            case Observed() as observed:
                if acted := self._action_of(observed):
                    yield from self._step(Step(acted, observed))
            case _:
                pass

    def _action_of(self, observed: Observed) -> Acted | None:
        for key, acted in self._awaiting.items():
            # A result of which only the first and last characters are known names no action. It is paired with the
            # oldest action without a result.
            if not observed.refs or set(observed.refs) & set(acted.refs):
                return self._awaiting.pop(key)
        return None

    def _step(self, step: Step) -> Iterator[Decision]:
        self.steps.append(step)
        policy = self.policy
        if policy is None:
            return
        waiting = any(one.open and one.from_finding for one in self.interventions.values())
        yield from self._each(lambda intervention: intervention.stepped(step, policy.ignored_after))
        # While a steering message has no outcome, repeated actions decide its outcome. They cause no new finding.
        if waiting:
            self._reset_detectors()
            return
        for detector in self._detectors:
            for finding in detector.take(step, policy):
                yield from self._found(finding, policy)

    def _reset_detectors(self) -> None:
        for detector in self._detectors:
            detector.reset()

    def _found(self, found: Finding, policy: Policy) -> Iterator[Decision]:
        finding = FindingDecision(
            id=id_from("fnd", self.sandbox_id, self.epoch, found.detector, *found.seqs),
            cites=f"sandbox_log#{found.seqs[-1]}",
            seqs=found.seqs,
            detector=found.detector,
            summary=found.summary,
        )
        yield finding
        issued_from_findings = sum(1 for intervention in self.interventions.values() if intervention.from_finding)
        if issued_from_findings < policy.most_interventions and self.live:
            yield self._issue(
                Issued(
                    id=id_from("ivn", finding.id),
                    cites=finding.cites,
                    seqs=finding.seqs,
                    message_id=id_from("msg", finding.id),
                    finding_id=finding.id,
                    text=found.advice,
                    sender=SENDER,
                    urgent=False,
                    expires_at=self.at + timedelta(seconds=policy.message_ttl_s),
                ),
                found.steps[-1],
            )

    def _input(self, record: GuardianRecord, cites: str) -> Iterator[Decision]:
        match read_input(record):
            case Policy() as policy:
                self.policy = policy
            case SteerRequested() as request:
                yield from self._steer(request, cites)
            case MessageSent(message_id=message_id, position=position):
                if intervention := self.interventions.get(message_id):
                    yield from intervention.reach("stored", cites, detail=f"inbox@{position}")
            case MessageRefused(message_id=message_id, code=code):
                if intervention := self.interventions.get(message_id):
                    yield from intervention.reach("expired", cites, detail="fenced" if code == "gone" else code)
            case SilenceObserved(ttl_s=ttl_s):
                if self.live and self.unresponsive is None:
                    self.unresponsive = Unresponsive(
                        id=id_from("evt", self.sandbox_id, self.epoch, "unresponsive", record.n),
                        cites=cites,
                        reason=f"no beat and no event for {ttl_s:g} s",
                    )
                    yield self.unresponsive
            case ReplaceAnswered():
                self.replace_answered = True
            case _:
                pass

    def _steer(self, request: SteerRequested, cites: str) -> Iterator[Decision]:
        if request.message_id in self.interventions:
            return
        ttl_s = (self.policy or Policy()).message_ttl_s
        yield self._issue(
            Issued(
                id=id_from("ivn", self.sandbox_id, request.message_id),
                cites=cites,
                message_id=request.message_id,
                finding_id=None,
                text=request.text,
                sender=request.sender,
                urgent=request.urgent,
                expires_at=self.at + timedelta(seconds=ttl_s),
            ),
            None,
        )
        if not self.live:
            yield from self.interventions[request.message_id].finished(cites)

    def _issue(self, issued: Issued, repeated: Step | None) -> Issued:
        self.interventions[issued.message_id] = Intervention(issued, repeated)
        return issued

    def _each(self, decide: Callable[[Intervention], list[Reached]]) -> Iterator[Decision]:
        return chain.from_iterable(decide(one) for one in self.interventions.values() if one.open)
