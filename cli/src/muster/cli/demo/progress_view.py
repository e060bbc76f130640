"""The demo as it happens: a live table on a terminal, plain lines anywhere else. Both on stderr."""

from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from muster.cli.demo.task_progress import ENDS, TaskProgress
from muster.common.terminal import printable

STYLES = {
    "completed": "bold green",
    "failed": "bold red",
    "cancelled": "bold red",
    "escalated": "bold red",
    "retrying": "bold yellow",
    "validating": "cyan",
    "running": "bold blue",
}
_LINES = 10
Clock = Callable[[], float]


class ProgressView(Protocol):
    """Where the demo is told."""

    def watch(self, stories: Sequence[TaskProgress]) -> None:
        """From now on these are shown."""
        ...

    def tell(self, who: str, line: str) -> None:
        """Something happened."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Lines:
    """One line for each happening: for pipes and logs."""

    def __init__(self, console: Console, now: Clock) -> None:
        self._console, self._now, self._begin = console, now, now()

    def watch(self, stories: Sequence[TaskProgress]) -> None:
        """See `ProgressView`."""

    def tell(self, who: str, line: str) -> None:
        """See `ProgressView`."""
        text = f"{self._now() - self._begin:6.1f} s  {who:<7} {line}"
        self._console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class DemoScreen:
    """One table that stays where it is, and the latest happenings below it."""

    def __init__(self, console: Console, now: Clock, title: str) -> None:
        self._now, self._begin, self._title = now, now(), title
        self._stories: Sequence[TaskProgress] = ()
        self._told: deque[tuple[float, str, str]] = deque(maxlen=_LINES)
        self._spinner = Spinner("dots", style="blue")
        self._live = Live(console=console, refresh_per_second=8, get_renderable=self._render)

    def watch(self, stories: Sequence[TaskProgress]) -> None:
        """See `ProgressView`."""
        self._stories = stories

    def tell(self, who: str, line: str) -> None:
        """See `ProgressView`."""
        self._told.append((self._now() - self._begin, who, line))

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def _render(self) -> RenderableType:
        head = Text.assemble(
            ("muster demo", "bold"), f"  {self._title}  ", (f"{self._now() - self._begin:.0f} s", "bold cyan")
        )
        parts: list[RenderableType] = [Padding(head, (1, 0, 1, 1))]
        if self._stories:
            parts += [table(self._stories, self._spinner), Text("")]
        return Group(*parts, self._feed())

    def _feed(self) -> RenderableType:
        feed = Table.grid(padding=(0, 1))
        feed.add_column(justify="right", style="dim", no_wrap=True, min_width=7)
        feed.add_column(style="cyan", no_wrap=True, min_width=7)
        feed.add_column(no_wrap=True, overflow="ellipsis")
        for at_s, who, line in list(self._told):
            feed.add_row(f"{at_s:.1f} s", who, Text(printable(line), style=_tone(line)))
        return feed


def table(stories: Sequence[TaskProgress], spinner: Spinner) -> Table:
    """The state of each task."""
    grid = Table(box=None, pad_edge=True, padding=(0, 1), header_style="dim", expand=True)
    grid.add_column("task", no_wrap=True)
    grid.add_column("state", no_wrap=True, min_width=12)
    for name in ("steps", "events", "findings"):
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column("steering", no_wrap=True, min_width=9)
    grid.add_column("restarts", justify="right", no_wrap=True)
    grid.add_column("doing", no_wrap=True, overflow="ellipsis", ratio=1)
    for story in list(stories):
        grid.add_row(
            Text(story.case.name, style="bold"),
            _state(story, spinner),
            str(story.actions),
            str(story.events),
            _count(story.findings, "yellow"),
            Text(printable(", ".join(story.stages.values())) or "·", style="magenta" if story.stages else "dim"),
            _count(story.restarts, "red"),
            Text("" if story.ended else printable(story.doing), style="dim"),
        )
    return grid


def _state(story: TaskProgress, spinner: Spinner) -> RenderableType:
    style = STYLES.get(story.state, "")
    if story.state in ENDS:
        return Text(f"{'✔' if story.state == 'completed' else '✘'} {story.state}", style=style)
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_row(spinner, Text(story.state, style=style))
    return grid


def _count(number: int, style: str) -> Text:
    return Text(str(number), style=f"bold {style}") if number else Text("·", style="dim")


def _tone(line: str) -> str:
    for word, style in (("guardian", "yellow"), ("steering", "magenta"), ("kill", "bold red"), ("fenced", "red")):
        if word in line:
            return style
    return "green" if "completed" in line else ""
