"""NDJSON to POST /tasks/batch: any number of lines in bounded memory, an answer for each."""

from __future__ import annotations

import codecs
import logging
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING, Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from pydantic import TypeAdapter, ValidationError

from backend.api.body import dump_json, in_body, refuse_constants
from backend.api.limits import NDJSON
from backend.api.problems import OUR_FAULT, faults
from backend.api.routes.batch_items import MAX_ITEMS, BatchItem, BatchLine, arguments_of, task_of
from backend.api.routes.task_models import EXAMPLE_ID
from backend.errors import HTTPError, StoreError, StoreLocked, StoreNotWritable, StoreUnavailable
from backend.states import PENDING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from backend.api.services import Services
    from backend.db.records import TaskRecord

logger = logging.getLogger(__name__)

MAX_LINE = 1024 * 1024
# Lines that are committed together: at most as many as an array may hold, or about these bytes.
CHUNK = MAX_ITEMS
CHUNK_BYTES = 4 * MAX_LINE
# After one of these errors nothing was stored. After any other kind of StoreUnavailable the tasks
# may have been stored.
NOTHING_STORED = (StoreNotWritable, StoreLocked)
MAY_BE_STORED = (
    "The task store failed. The task may have been stored all the same: ask for its state later."
)
# Bytes of answers to a stream that are kept in memory; more are kept in a file.
SPOOL = 1024 * 1024

_item = TypeAdapter(BatchItem)

_ANSWERS = (
    {"line": 1, "task_id": EXAMPLE_ID, "status": PENDING},
    {"line": 2, "errors": [{"detail": "must not be blank", "pointer": "#/arguments/content"}]},
)


def describe_answers() -> dict[str, Any]:
    """Return how OpenAPI describes the answers: as a string, since NDJSON is not one value."""
    line = BatchLine.model_json_schema(ref_template="#/components/schemas/{model}")
    del line["$defs"]  # The document has them already, from InvalidProblem.
    return {
        "schema": {
            "type": "string",
            "description": "An answer for each line that is not blank",
            "contentMediaType": NDJSON,
            "contentSchema": {"type": "array", "items": line},
        },
        "example": "".join(dump_json(answer) + "\n" for answer in _ANSWERS),
    }


async def accept_lines(request: Request, services: Services, key: str | None) -> Response:
    """Accept lines as they arrive, in bounded memory; return the answer when all were read.

    Not earlier: a client that reads only after it has sent everything would wait for us, and we for
    it.
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

    # Without Content-Length the answer would be chunked, and an HTTP/1.0 client would take the
    # sizes of the chunks for lines.
    headers = {"Content-Length": str(length)}
    return StreamingResponse(send(), 202, headers=headers, media_type=NDJSON)


def _chunk_key(key: str | None, number: int) -> str | None:
    """Return the key of the chunk after `number` lines: a repeated request has the same chunks.

    The first chunk has the client's own key, so that the same key on another form of request is
    noticed. The keys of later chunks have a space, which a client's key cannot have.
    """
    return f"{key} {number}" if key and number else key


async def _chunks(request: Request) -> AsyncIterator[list[bytes]]:
    """Yield the body's lines, up to CHUNK or CHUNK_BYTES at a time.

    Where a chunk ends depends only on the lines, not on the pieces in which they arrive.
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
    """Yield the body's lines; one that is too long is cut, to a byte over the limit."""
    begun = bytearray()  # not bytes: each piece of a long line would copy them
    first = True
    async for piece in request.stream():
        *whole, rest = piece.split(b"\n")
        if whole:
            whole[0] = bytes(begun + whole[0])
            begun.clear()
            if first:
                whole[0] = whole[0].removeprefix(codecs.BOM_UTF8)
                first = False
        for line in whole:
            yield line[: MAX_LINE + 1]
        begun += rest
        del begun[MAX_LINE + 1 :]
    last = bytes(begun).removeprefix(codecs.BOM_UTF8 if first else b"")
    if last.strip():
        yield last


async def _accept_lines(
    lines: Sequence[bytes], first: int, services: Services, key: str | None
) -> bytes:
    """Accept the valid lines together; return an answer for each line that is not blank.

    Never raises: the ids of earlier chunks would be lost.
    """
    answers: list[dict[str, Any]] = []
    tasks: list[TaskRecord] = []
    for number, line in enumerate(lines, first + 1):
        if not line.strip():
            continue
        answer: dict[str, Any] = {"line": number}
        answers.append(answer)
        try:
            tasks.append(_line_task(line, services))
            answer |= {"task_id": tasks[-1].id, "status": PENDING}
        except RequestValidationError as error:
            answer["errors"] = faults(error)
        except Exception:
            logger.exception("a line of a stream could not be read; it was refused")
            answer.update(_fault("REFUSED", OUR_FAULT))

    def render(ids: Sequence[str]) -> str:
        left = iter(ids)
        return _dump_lines(
            answer | {"task_id": next(left)} if "task_id" in answer else answer
            for answer in answers
        )

    if not tasks:
        return render([]).encode()
    try:
        ids = await services.submissions.submit(tasks, "lines", key, render)
    except Exception as error:  # noqa: BLE001 - the batcher has logged unexpected errors
        return _dump_lines(_after_error(answer, error) for answer in answers).encode()
    return render(ids).encode()


def _dump_lines(answers: Iterable[dict[str, Any]]) -> str:
    return "".join(dump_json(answer) + "\n" for answer in answers)


def _after_error(answer: dict[str, Any], error: Exception) -> dict[str, Any]:
    """Return the answer to a line whose task, if any, was refused or may have been stored."""
    if "task_id" not in answer:
        return answer
    if isinstance(error, StoreUnavailable) and not isinstance(error, NOTHING_STORED):
        return answer | _fault("UNKNOWN", MAY_BE_STORED)
    known = isinstance(error, (HTTPError, StoreError))
    fault = _fault("REFUSED", str(error) if known else OUR_FAULT)
    return {"line": answer["line"], **fault}


def _fault(status: str, detail: str) -> dict[str, Any]:
    return {"status": status, "errors": [{"detail": detail, "pointer": "#"}]}


_TOO_LONG = {"type": "too_long", "loc": ("body",), "msg": "the line is over 1 MiB"}


def _line_task(line: bytes, services: Services) -> TaskRecord:
    if len(line) > MAX_LINE:
        raise RequestValidationError([_TOO_LONG])
    try:
        item = _item.validate_json(line)
    except ValidationError as error:
        raise RequestValidationError(in_body(error.errors())) from error
    text = line.decode()
    refuse_constants(text)
    (arguments,) = arguments_of([item], f"[{text}]")
    return task_of(item, arguments, services)
