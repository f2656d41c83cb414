"""What the commands print: tables on a terminal, the API's body elsewhere."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from rich.console import RenderableType

    from backend.client.http import Reply

STYLES = {"SUCCESS": "green", "FAILURE": "red", "REVOKED": "yellow", "STARTED": "cyan"}


def on_terminal() -> bool:
    """Return whether somebody reads the output."""
    return sys.stdout.isatty()


def show(reply: Reply, render: Callable[[Any], Iterable[RenderableType]]) -> None:
    """Print an answer: what `render` makes of its value on a terminal, else its body."""
    if not on_terminal():
        click.echo(reply.body)
        return
    from rich.console import Console  # noqa: PLC0415 - not loaded when the output is a pipe

    console = Console()
    for part in render(reply.json):
        console.print(part)


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> RenderableType:
    """Return a table of rows."""
    from rich.table import Table  # noqa: PLC0415 - as above

    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        name = column.removesuffix("_at").replace("_", " ")
        made.add_column(name, no_wrap=column in {"task_id", "status"}, overflow="fold")
    for row in rows:
        made.add_row(*(cell(row.get(column), short=column.endswith("_at")) for column in columns))
    return made


def record(task: Mapping[str, Any]) -> Iterable[RenderableType]:
    """Yield what there is to show of a task's whole record."""
    from rich.table import Table  # noqa: PLC0415 - as above

    made = Table(box=None, pad_edge=False, show_header=False)
    for name, value in task.items():
        if name != "attempts" and value not in (None, []):
            made.add_row(f"[bold]{name.replace('_', ' ')}[/]", cell(value))
    yield made
    if task["attempts"]:
        yield ""
        columns = ("attempt", "status", "worker", "started_at", "finished_at", "error")
        yield table(task["attempts"], columns)


def cell(value: object, *, short: bool = False) -> str:
    """Return a value as a cell of a table; `short`: a time without year and fractions."""
    from rich.markup import escape  # noqa: PLC0415 - as above

    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if short:
        text = text[5:19].replace("T", " ")
    style = STYLES.get(text)
    return f"[{style}]{text}[/]" if style else escape(text)
