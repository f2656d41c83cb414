"""The commands of `tasks-api` that talk to a running API; TASKS.md describes them."""

from __future__ import annotations

import json
import math
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click
from click.shell_completion import get_completion_class

from backend.client.http import FAILED, OUT_OF_TIME, request
from backend.client.output import on_terminal, record, show, table
from backend.states import ENDED, REVOKED, SUCCESS, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rich.console import RenderableType

    from backend.client.http import Reply

    Command = Callable[..., None]

# How long one request waits for a task's end.
WAIT_SECONDS = 10.0
ENTRY = ("task_id", "name", "status", "created_at")


def _filters(command: Command) -> Command:
    """Add the options that choose tasks of the history."""
    for option in (
        click.option("--text", help="A part of the arguments' JSON."),
        click.option("--created-before", metavar="TIME", help="Earlier than this (ISO 8601)."),
        click.option("--created-after", metavar="TIME", help="At this time or later."),
        click.option("--error", metavar="CLASS", help="The class of the last error."),
        click.option("--queue", help="The queue of the task."),
        click.option("--name", help="The task's name."),
        click.option("--tag", multiple=True, help="Any of these tags; repeat it."),
        click.option("--status", multiple=True, type=click.Choice([*State], case_sensitive=False)),
    ):
        command = option(command)
    return command


@click.command("list")
@click.option("--limit", type=int, default=100, help="How many at most.", show_default=True)
def list_tasks(limit: int) -> None:
    """List the tasks that have not ended."""
    reply = request("GET", "/tasks/", query={"limit": limit})
    show(
        reply,
        lambda found: [
            table(found["tasks"], ("task_id", "status")),
            f"{found['total']} not ended",
        ],
    )


@click.command("show")
@click.argument("task_id")
def show_task(task_id: str) -> None:
    """Show everything about a task."""
    show(request("GET", f"/tasks/{quote(task_id, safe='')}/detail"), record)


@click.command("submit")
@click.argument("name")
@click.argument("arguments", default="{}")
@click.option("--priority", type=int, help="0 to 9, the highest first; 4 if it is not given.")
@click.option("--countdown", type=float, metavar="SECONDS", help="Until it may start.")
@click.option("--eta", metavar="TIME", help="When it may start (ISO 8601).")
@click.option("--expires", type=float, metavar="SECONDS", help="After that it does not start.")
@click.option("--time-limit", type=float, metavar="SECONDS", help="For each attempt.")
@click.option("--max-attempts", type=int, help="How many attempts.")
@click.option("--tag", multiple=True, help="A word to find it by; repeat it.")
@click.option("--key", help="An Idempotency-Key.")
def submit(name: str, arguments: str, key: str | None, **options: Any) -> None:
    """Submit a task; ARGUMENTS is a JSON object, such as '{"content": "Hello"}'."""
    path = f"/tasks/{quote(name, safe='')}"
    body: str | None = arguments
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"is not JSON: {error}", param_hint="ARGUMENTS") from error
    if name == "slow":  # its arguments are in the query
        if not isinstance(value, dict):
            raise click.BadParameter("must be a JSON object", param_hint="ARGUMENTS")
        options |= {field: json.dumps(each) for field, each in value.items()}
        body = None
    show(request("POST", path, query=options, body=body, key=key), _accepted)


def _accepted(task: Any) -> Iterable[RenderableType]:  # noqa: ANN401 - JSON
    yield task["task_id"]


@click.command("wait")
@click.argument("task_id")
@click.option(
    "--timeout", type=click.FloatRange(min=0), default=3600, help="Seconds.", show_default=True
)
def wait(task_id: str, timeout: float) -> None:
    """Wait for the end of a task; exit with 0 after SUCCESS, with 124 when the time is up."""
    if not math.isfinite(timeout):
        raise click.BadParameter("must be a number of seconds", param_hint="--timeout")
    deadline = time.monotonic() + timeout
    with _progress() as report:
        while True:
            left = max(0.0, deadline - time.monotonic())
            seconds = {"wait": min(left, WAIT_SECONDS)}
            reply = request("GET", f"/tasks/{quote(task_id, safe='')}", query=seconds)
            status = reply.json["status"]
            if status in ENDED:
                break
            report(reply)
            if time.monotonic() >= deadline:
                raise SystemExit(OUT_OF_TIME)
    show(reply, lambda task: [table([task], ("task_id", "status", "result"))])
    if status != SUCCESS:
        raise SystemExit(FAILED)


@contextmanager
def _progress() -> Iterator[Callable[[Reply], None]]:
    """Give a function that shows on a terminal how far a task is."""
    if not on_terminal():
        yield lambda _reply: None
        return
    from rich.progress import Progress  # noqa: PLC0415 - not loaded for a pipe

    with Progress(transient=True) as bar:
        shown = bar.add_task("", total=None)

        def report(reply: Reply) -> None:
            done, _, total = reply.headers.get("Progress", "").partition("/")
            bar.update(shown, description=reply.json["status"])
            if total:
                bar.update(shown, completed=int(done), total=int(total))

        yield report


@click.command("history")
@_filters
@click.option("--limit", type=int, default=100, help="How many at most.", show_default=True)
@click.option("--before", help="`next` of the page before.")
def history(**query: Any) -> None:
    """Find tasks, newest first."""
    show(request("GET", "/tasks/history", query=query), _page(ENTRY))


def _page(columns: Sequence[str]) -> Callable[[Any], Iterable[RenderableType]]:
    def render(found: Any) -> Iterable[RenderableType]:  # noqa: ANN401 - JSON
        yield table(found["tasks"], columns)
        if found["next"]:
            yield f"There are more: --before {found['next']}"

    return render


def _change(action: str, task_ids: Sequence[str], options: dict[str, Any]) -> None:
    """Cancel or retry tasks by their ids, or by the options that choose them."""
    dry_run, before = options.pop("dry_run"), options.pop("before")
    wanted = {name: value for name, value in options.items() if value not in (None, ())}
    if bool(task_ids) == bool(wanted):
        raise click.UsageError("give either ids of tasks or options that choose tasks")
    if task_ids and before:
        raise click.UsageError("--before belongs to options that choose tasks")
    if len(task_ids) == 1 and not dry_run:
        reply = request("POST", f"/tasks/{quote(task_ids[0], safe='')}/{action}")
        show(reply, lambda task: [table([task], ("task_id", "status"))])
        return
    body: dict[str, Any] = {"dry_run": dry_run}
    body |= {"ids": task_ids} if task_ids else {"filter": wanted, "before": before}
    reply = request("POST", f"/tasks/{action}", body=json.dumps(body))
    show(reply, _page(("task_id", "status", "changed")))
    good = REVOKED if action == "cancel" else None  # a task may be cancelled again
    left = [task for task in reply.json["tasks"] if not task["changed"] and task["status"] != good]
    if task_ids and left:
        all_ids = len(reply.json["tasks"])
        click.echo(
            f"tasks-api: {len(left)} of {all_ids} tasks cannot be changed: they have another state,"
            " are locked or not known; see `tasks-api show ID`",
            err=True,
        )
        raise SystemExit(FAILED)


def _action(name: str, text: str) -> click.Command:
    @_filters
    def run(task_id: tuple[str, ...], **options: Any) -> None:
        _change(name, task_id, options)

    command: Command = run
    for option in (
        click.option("--dry-run", is_flag=True, help="Only say what would be changed."),
        click.option("--before", help="`next` of the answer before."),
        click.argument("task_id", nargs=-1),
    ):
        command = option(command)
    return click.command(name, help=text)(command)


cancel = _action("cancel", "Cancel tasks, by their ids or by the options that choose them.")
retry = _action("retry", "Retry failed or revoked tasks, by ids or by options that choose them.")


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script for the completion of commands; load it in your shell's start-up file."""
    kind: Any = get_completion_class(shell)  # never None: click has all of these
    root = context.find_root().command
    click.echo(kind(root, {}, "tasks-api", "_TASKS_API_COMPLETE").source())


COMMANDS = (list_tasks, show_task, submit, wait, cancel, retry, history, completion)
