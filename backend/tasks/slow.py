"""The task behind POST /tasks/slow: sleep, for tests and demonstrations."""

from __future__ import annotations

import time

from pydantic import BaseModel, Field

from backend.task import Run, task


class SlowArguments(BaseModel):
    """How long the task takes."""

    duration: int = Field(10, ge=0, le=3600, description="Seconds", examples=[10])


class SlowResult(BaseModel):
    """A message that the task has slept."""

    message: str = Field(examples=["Task completed after 10 seconds"])


@task(name="slow", time_limit=3700)
def slow(args: SlowArguments, run: Run) -> SlowResult:
    """Sleep for `duration` seconds, reporting progress once a second."""
    end = time.monotonic() + args.duration
    for done in range(args.duration):
        run.progress(done, args.duration)
        # Until a fixed time, so that a slow report does not make the task longer.
        time.sleep(max(0.0, end - (args.duration - done - 1) - time.monotonic()))
    return SlowResult(message=f"Task completed after {args.duration} seconds")
