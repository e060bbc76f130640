"""Prints the demo's result: a table of the tasks, the steering messages, the killed worker and each failed check."""

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from muster.cli.demo.report import CHAIN, Report, TaskReport, stage_chain, was_heeded
from muster.common.terminal import printable, printable_lines

_PROOF = "proof: the diff makes the tests pass on a fresh clone, where they failed before"


def show(report: Report, console: Console) -> None:
    """Print the report of the demo."""
    console.print(Group(_table(report), Text(_PROOF, style="dim"), *_details(report)))
    console.print(_verdict(report))


def _table(report: Report) -> Table:
    # The table must fit a terminal of 80 columns, because rich would cut the numbers of a wider table.
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("task", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for name in ("attempts", "events", "steered", "tokens", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("proof", no_wrap=True)
    for task in report.tasks:
        table.add_row(
            Text(task.name, style="bold"),
            Text(task.state, style="green" if task.state == "completed" else "red"),
            str(len(task.attempts)),
            str(task.events),
            str(len(task.interventions)),
            f"{task.tokens:,}",
            f"{task.seconds:.1f}",
            _proof(task),
        )
    return table


def _proof(task: TaskReport) -> Text:
    if task.proof.passed:
        return Text("✔ tests pass", style="green")
    return Text("✘ no clean diff" if task.diff and not task.proof.applied else "✘ not proved", style="red")


def _details(report: Report) -> list[RenderableType]:
    lines: list[RenderableType] = []
    for task in report.tasks:
        lines.extend(_steering(task))
        if task.killed:
            kill = f"{task.name}: worker {task.killed.pid} killed with -9 after {task.killed.events} events; "
            states = [f"attempt {attempt.epoch} {attempt.state}" for attempt in task.attempts]
            lines.append(Text(printable(kill + ", ".join(states))))
    return lines


def _steering(task: TaskReport) -> list[RenderableType]:
    lines: list[RenderableType] = []
    for intervention in task.interventions:
        style = "" if was_heeded(intervention) else "yellow"
        lines.append(Text(printable(f"{task.name}: {stage_chain(intervention)}"), style=style))
        receipts = sorted(intervention.receipts, key=lambda receipt: (*CHAIN, receipt.stage).index(receipt.stage))
        width = max((len(receipt.stage) for receipt in receipts), default=0)
        lines.extend(
            Text(printable(f"   {receipt.stage:<{width}}  {receipt.cites}"), style="dim") for receipt in receipts
        )
    return lines


def _verdict(report: Report) -> RenderableType:
    logs = f"{report.verify['sandboxes']} sandbox logs {'verified' if report.verify['ok'] else 'NOT in order'}"
    setup = f"model provider {report.provider}, isolation {report.stack.isolation or 'unknown'}"
    facts = f"{logs}; {setup}, stack ready in {report.stack.ready_s:.1f} s, demo done in {report.seconds:.1f} s"
    if report.ok:
        return Group("", Text(f"✔ The demo succeeded: {facts}.", style="bold green"), "")
    failures = [f"  ✘ {task.name}: {sentence}" for task in report.tasks for sentence in task.shortfalls]
    text = printable_lines("\n".join((f"✘ The demo failed ({facts}):", *failures)))
    return Group("", Text(text, style="red"), "")
