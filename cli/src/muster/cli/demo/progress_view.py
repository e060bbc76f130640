"""Shows the progress of the demo on stderr: as a live table on a terminal, otherwise as plain lines."""

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

from muster.cli.demo.task_progress import TaskProgress
from muster.common.contracts.tasks import FEED_ENDS
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
LONGEST_SILENCE_S = 2.0
"""Seconds without a line after which `ProgressLines.tick` prints one."""
Clock = Callable[[], float]


class ProgressView(Protocol):
    """A display of the demo's progress. The display is shown from `__enter__` to `__exit__`."""

    def watch(self, progresses: Sequence[TaskProgress]) -> None:
        """Set the tasks whose progress the display shows: one `TaskProgress` for each task."""
        ...

    def add_line(self, source: str, line: str) -> None:
        """Show a line about an event; `source` says where it happened: a task's name, `stack` or `proof`."""
        ...

    def tick(self) -> None:
        """Show that the demo still works, if the display would otherwise stay unchanged for some seconds."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class ProgressLines:
    """Prints each progress line at once; used if stderr is a pipe or file."""

    def __init__(self, console: Console, now: Clock) -> None:
        self._console, self._now, self._begin = console, now, now()
        self._printed = self._begin
        self._progresses: Sequence[TaskProgress] = ()

    def watch(self, progresses: Sequence[TaskProgress]) -> None:
        """Set the tasks that `tick` describes."""
        self._progresses = progresses

    def tick(self) -> None:
        """Print what each running task does, if no line was printed for `LONGEST_SILENCE_S` seconds."""
        if self._now() - self._printed < LONGEST_SILENCE_S:
            return
        running = [one for one in self._progresses if not one.ended]
        self.add_line(
            "…", ", ".join(f"{one.case.name}: {one.doing or one.state}" for one in running) or "still working"
        )

    def add_line(self, source: str, line: str) -> None:
        """Print the seconds since the start of the demo, the source and the line."""
        self._printed = self._now()
        text = f"{self._now() - self._begin:6.1f} s  {source:<7} {line}"
        self._console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class DemoScreen:
    """A live table of the tasks with the latest lines below it."""

    def __init__(self, console: Console, now: Clock, title: str) -> None:
        self._now, self._begin, self._title = now, now(), title
        self._progresses: Sequence[TaskProgress] = ()
        self._lines: deque[tuple[float, str, str]] = deque(maxlen=_LINES)
        self._spinner = Spinner("dots", style="blue")
        self._live = Live(console=console, refresh_per_second=8, get_renderable=self._render)

    def watch(self, progresses: Sequence[TaskProgress]) -> None:
        """Set the tasks whose progress the table shows from its next refresh on."""
        self._progresses = progresses

    def tick(self) -> None:
        """Do nothing: the table shows the seconds since the start of the demo."""

    def add_line(self, source: str, line: str) -> None:
        """Add the line to the latest lines below the table."""
        self._lines.append((self._now() - self._begin, source, line))

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
        if self._progresses:
            parts += [table(self._progresses, self._spinner), Text("")]
        return Group(*parts, self._feed())

    def _feed(self) -> RenderableType:
        feed = Table.grid(padding=(0, 1))
        feed.add_column(justify="right", style="dim", no_wrap=True, min_width=7)
        feed.add_column(style="cyan", no_wrap=True, min_width=7)
        feed.add_column(no_wrap=True, overflow="ellipsis")
        for at_s, source, line in list(self._lines):
            feed.add_row(f"{at_s:.1f} s", source, Text(printable(line), style=_style(line)))
        return feed


def table(progresses: Sequence[TaskProgress], spinner: Spinner) -> Table:
    """Return a table with the progress of each task."""
    grid = Table(box=None, pad_edge=True, padding=(0, 1), header_style="dim", expand=True)
    grid.add_column("task", no_wrap=True)
    grid.add_column("state", no_wrap=True, min_width=12)
    for name in ("steps", "events", "findings"):
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column("steering", no_wrap=True, min_width=9)
    grid.add_column("restarts", justify="right", no_wrap=True)
    grid.add_column("doing", no_wrap=True, overflow="ellipsis", ratio=1)
    for progress in list(progresses):
        grid.add_row(
            Text(progress.case.name, style="bold"),
            _state(progress, spinner),
            str(progress.actions),
            str(progress.events),
            _count(progress.findings, "yellow"),
            Text(printable(", ".join(progress.stages.values())) or "·", style="magenta" if progress.stages else "dim"),
            _count(progress.restarts, "red"),
            Text("" if progress.ended else printable(progress.doing), style="dim"),
        )
    return grid


def _state(progress: TaskProgress, spinner: Spinner) -> RenderableType:
    style = STYLES.get(progress.state, "")
    if progress.state in FEED_ENDS:
        return Text(f"{'✔' if progress.state == 'completed' else '✘'} {progress.state}", style=style)
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_row(spinner, Text(progress.state, style=style))
    return grid


def _count(number: int, style: str) -> Text:
    return Text(str(number), style=f"bold {style}") if number else Text("·", style="dim")


def _style(line: str) -> str:
    for word, style in (("guardian", "yellow"), ("steering", "magenta"), ("kill", "bold red"), ("fenced", "red")):
        if word in line:
            return style
    return "green" if "completed" in line else ""
