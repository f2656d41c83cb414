"""POST /tasks/batch: many tasks in one request."""

from __future__ import annotations

import codecs
import json
import logging
import re
import secrets
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import to_json

from backend.api.deps import Services, services_of
from backend.api.problems import (
    BODY_REFUSED,
    OUR_FAULT,
    STORE_AWAY,
    TOO_MANY,
    UNPROCESSABLE_OR_REUSED,
    faults,
)
from backend.api.quick import IDEMPOTENCY_KEY, compact, in_body, read_json, refuse_constants
from backend.api.submissions import Order
from backend.db.ledger import Submission
from backend.errors import HTTPError, StoreLocked, StoreNotWritable, StoreUnavailable
from backend.schemas import BatchAccepted, BatchItem
from backend.tasks.registry import names, registered

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

logger = logging.getLogger(__name__)

router = APIRouter(tags=["Tasks"], responses={**STORE_AWAY, **BODY_REFUSED, **TOO_MANY})

MAX_ITEMS = 1000
MAX_LINE = 1024 * 1024
NDJSON = "application/x-ndjson"
# Lines that are committed together: as many as an array may hold, and about so many bytes.
CHUNK = MAX_ITEMS
CHUNK_BYTES = 4 * MAX_LINE
# After these PostgreSQL has certainly stored nothing; else a commit may have been cut off.
NOTHING_STORED = (StoreNotWritable, StoreLocked)
MAY_BE_STORED = (
    "The task store went away while the task was stored. It may have been stored: ask for its state"
    " later."
)
# What answers to a stream may take of memory; the rest waits on disk.
SPOOL = 1024 * 1024

_items = TypeAdapter(Annotated[list[BatchItem], Field(min_length=1, max_length=MAX_ITEMS)])
_item = TypeAdapter(BatchItem)


def _lines(description: str, *examples: dict[str, Any]) -> dict[str, Any]:
    """Return OpenAPI's description of NDJSON: a text, as a schema describes one JSON value."""
    text = "".join(compact(example) + "\n" for example in examples)
    return {"schema": {"type": "string", "description": description}, "example": text}


_ITEM = {"name": "insert_message", "arguments": {"content": "Hello World"}}
_FAULT = {"detail": "must not be blank", "pointer": "#/arguments/content"}
_LINES = _lines("A task a line, each as an item of the array", _ITEM, _ITEM)
_ANSWER_LINES = _lines(
    "An answer for each line that is not blank, with its number: `task_id` and `status` PENDING"
    " where the task is on disk; else `errors`, with `status` REFUSED where the line was good. With"
    " UNKNOWN the store went away: there is a `task_id`, and the task may have been stored",
    {"line": 1, "task_id": "019a3f0e-7c1a-7d7e-9a53-0d8f2c7b1f55", "status": "PENDING"},
    {"line": 2, "errors": [_FAULT]},
)


@router.post(
    "/tasks/batch",
    status_code=202,
    response_model=BatchAccepted,
    responses={202: {"content": {NDJSON: _ANSWER_LINES}}, **UNPROCESSABLE_OR_REUSED},
    summary="Create many tasks",
    openapi_extra={
        "parameters": [IDEMPOTENCY_KEY.openapi],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "type": "array",
                        "minItems": 1,
                        "maxItems": MAX_ITEMS,
                        "items": BatchItem.model_json_schema(),
                    }
                },
                NDJSON: _LINES,
            },
        },
    },
)
async def create_batch(request: Request) -> Response:
    """Enqueue up to 1,000 tasks as a JSON array, all or none; the answer has their ids in order.

    As `application/x-ndjson`, a task a line and as many as you like, the answer has a line for
    each; bad lines are named and skipped.
    """
    services, key = services_of(request), IDEMPOTENCY_KEY.of(request)
    if request.headers.get("content-type", "").lower().startswith(NDJSON):
        return await _stream(request, services, key)
    items, text = await read_json(request, _items)
    problems: list[Any] = []
    tasks = []
    for place, (item, arguments) in enumerate(zip(items, _arguments(items, text), strict=True)):
        try:
            tasks.append(_task(item, arguments, services, place))
        except RequestValidationError as error:
            problems += error.errors()
    if problems:
        raise RequestValidationError(problems)
    rows = [{"task_id": task.id, "status": "PENDING"} for task in tasks]
    answer = compact({"tasks": rows, "total": len(rows)})
    answer = await services.submissions.accept(Order(tasks, answer, "batch", key))
    return Response(answer, 202, media_type="application/json")


# Start of a number with a fraction or an exponent. json.dumps may write it differently, so it is
# kept as marked text.
_FRACTION = re.compile(r"\d[.eE]")
_MARK = secrets.token_hex(16)
_MARKED = re.compile(rf'"{_MARK}([^"]*)"')


def _arguments(items: Sequence[BatchItem], text: str) -> list[str]:
    """Return the items' arguments as JSON text, each number as it was written.

    `text` is the array that the items were read from. A worker reads the same text as the API.
    """
    if not _FRACTION.search(text):
        return [to_json(item.arguments).decode() for item in items]
    read = json.loads(text, parse_float=lambda number: _MARK + number)
    return [_MARKED.sub(r"\1", json.dumps(item["arguments"])) for item in read]


def _task(item: BatchItem, arguments: str, services: Services, *place: int) -> Submission:
    """Return the task of an item; `place` is where the item stands in the body.

    Raises RequestValidationError.
    """
    spec = registered().get(item.name)
    if spec is None:
        fault = {"type": "unknown_task", "loc": ("name",), "msg": f"must be one of {names()}"}
        raise RequestValidationError(in_body([fault], *place))
    try:
        spec.arguments.model_validate_json(arguments)
    except ValidationError as error:
        raise RequestValidationError(in_body(error.errors(), *place, "arguments")) from error
    return services.new_task(spec, arguments)


async def _stream(request: Request, services: Services, key: str | None) -> Response:
    """Take lines as they come, in bounded memory; answer when all were read.

    Not earlier, for a client that only reads when it has sent everything would wait for us to read,
    and we for it.
    """
    answers = SpooledTemporaryFile(max_size=SPOOL)  # noqa: SIM115 - closed when it was sent
    number = 0
    async for lines in _chunks(request):
        answers.write(await _accept_lines(lines, number, services, _chunk_key(key, number)))
        number += len(lines)
    length = answers.tell()
    answers.seek(0)

    async def send() -> AsyncIterator[bytes]:
        with answers:
            while piece := answers.read(64 * 1024):
                yield piece

    # With its length: a client that speaks HTTP/1.0 would take the sizes of chunks for lines.
    headers = {"Content-Length": str(length)}
    return StreamingResponse(send(), 202, headers=headers, media_type=NDJSON)


def _chunk_key(key: str | None, number: int) -> str | None:
    """Return the key of the chunk after `number` lines: a repeated request has the same chunks.

    The first has the client's own key, so that a key sent with another form of request is noticed.
    Those of the others have a space, which no client's key can have.
    """
    return f"{key} {number}" if key and number else key


async def _chunks(request: Request) -> AsyncIterator[list[bytes]]:
    """Give the body's lines, up to CHUNK or CHUNK_BYTES at a time.

    Where a chunk ends depends on the lines only, not on the pieces in which they come.
    """
    chunk: list[bytes] = []
    size = 0
    async for line in _body_lines(request):
        chunk.append(line)
        size += len(line)
        if len(chunk) == CHUNK or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


async def _body_lines(request: Request) -> AsyncIterator[bytes]:
    """Give the body's lines; one that is too long is cut, to a byte over the limit."""
    rest = b""
    first = True
    async for piece in request.stream():
        *whole, rest = (rest + piece).split(b"\n")
        if first and whole:
            whole[0] = whole[0].removeprefix(codecs.BOM_UTF8)
            first = False
        for line in whole:
            yield line[: MAX_LINE + 1]
        rest = rest[: MAX_LINE + 1]
    if first:
        rest = rest.removeprefix(codecs.BOM_UTF8)
    if rest.strip():
        yield rest


async def _accept_lines(
    lines: Sequence[bytes], first: int, services: Services, key: str | None
) -> bytes:
    """Accept the good lines together; return an answer for each line that is not blank.

    Never raises, whatever goes wrong: the ids of the chunks before would be lost with the answer.
    """
    answers: list[dict[str, Any]] = []
    tasks: list[Submission] = []
    for number, line in enumerate(lines, first + 1):
        if not line.strip():
            continue
        answer: dict[str, Any] = {"line": number}
        answers.append(answer)
        try:
            tasks.append(_line_task(line, services))
            answer |= {"task_id": tasks[-1].id, "status": "PENDING"}
        except RequestValidationError as error:
            answer["errors"] = faults(error)
        except Exception:
            logger.exception("a line of a stream could not be read; it was refused")
            answer.update(_fault("REFUSED", OUR_FAULT))
    text = "".join(compact(answer) + "\n" for answer in answers)
    if tasks:
        try:
            text = await services.submissions.accept(Order(tasks, text, "lines", key))
        except Exception as error:  # noqa: BLE001 - what is not an HTTPError was logged there
            for answer in answers:
                if "task_id" in answer:
                    _take_back(answer, error)
            text = "".join(compact(answer) + "\n" for answer in answers)
    return text.encode()


def _take_back(answer: dict[str, Any], error: Exception) -> None:
    """Change the answer to a good line: its task was refused, or may have been stored."""
    if isinstance(error, StoreUnavailable) and not isinstance(error, NOTHING_STORED):
        answer.update(_fault("UNKNOWN", MAY_BE_STORED))
        return
    del answer["task_id"]
    answer.update(_fault("REFUSED", error.detail if isinstance(error, HTTPError) else OUR_FAULT))


def _fault(status: str, detail: str) -> dict[str, Any]:
    return {"status": status, "errors": [{"detail": detail, "pointer": "#"}]}


_TOO_LONG = {"type": "too_long", "loc": ("body",), "msg": "the line is over 1 MiB"}


def _line_task(line: bytes, services: Services) -> Submission:
    if len(line) > MAX_LINE:
        raise RequestValidationError([_TOO_LONG])
    try:
        item = _item.validate_json(line)
    except ValidationError as error:
        raise RequestValidationError(in_body(error.errors())) from error
    text = line.decode()
    refuse_constants(text)
    (arguments,) = _arguments([item], f"[{text}]")
    return _task(item, arguments, services)
