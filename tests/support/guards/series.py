"""Guards of ordinary tasks that share messages, jobs and transactions."""

from __future__ import annotations

from .guard import Guard

SERIES = "tests/acceptance/test_series.py::"

GUARDS = [
    Guard(
        "2: a task with one attempt shares no message",
        "backend/broker/pack.py",
        "task.max_attempts > 1 and",
        "",
        "tests/unit/test_pack.py",
    ),
    Guard(
        "1: an attempt that is published again has its own message",
        "backend/broker/pack.py",
        " and not entry.publishes",
        "",
        "tests/unit/test_pack.py",
    ),
    Guard(
        "4: attempts of a redelivered bundle run alone",
        "backend/worker/parent/ordinary.py",
        "not (redelivered or limited)",
        "not limited",
        SERIES + "test_a_task_that_kills_its_worker_uses_up_an_attempt",
    ),
    Guard(
        "4: the parent takes back what is not begun behind a long attempt",
        "backend/worker/parent/series.py",
        "            self._trim()\n",
        "            self._look_later()\n",
        SERIES + "test_tasks_behind_a_long_one_run_in_another_process",
    ),
    Guard(
        "2: the parent starts an attempt that its child could not start",
        "backend/worker/parent/series.py",
        "partial(start_attempt, self._controller.hostname, current.delivery)",
        "lambda: None",
        SERIES + "test_tasks_behind_one_whose_process_cannot_answer_run_elsewhere",
    ),
    Guard(
        "4: the parent does not start an attempt that its child claims itself",
        "backend/worker/parent/series.py",
        "if self._tickets and self._tickets.locked:",
        "if self._tickets:",
        "tests/unit/test_jobs.py",
    ),
    Guard(
        "4: the parent does not start an attempt that its child has skipped",
        "backend/worker/attempt/series.py",
        "tickets.take(locked=held)",
        "tickets.take(locked=True)",
        "tests/integration/test_series.py",
    ),
    Guard(
        "4: an attempt of a series whose row is locked keeps its turn",
        "backend/worker/attempt/series.py",
        "waiting[0].id in group.busy",
        "False",
        "tests/integration/test_series.py",
    ),
    Guard(
        "4: a child that waits for a row holds no other rows",
        "backend/worker/attempt/series.py",
        "            group.close()  # while",
        "            pass  # while",
        "tests/integration/test_series.py",
    ),
    Guard(
        "4: an attempt that its group has locked is given back too",
        "backend/worker/attempt/attempt.py",
        "                # Not started if a group has locked it.\n"
        "                waiting=not self.started,\n",
        "                waiting=False,\n",
        "tests/integration/test_series.py",
    ),
    Guard(
        "4: the parent sees nothing of an attempt that its child has not begun",
        "backend/worker/tickets.py",
        "            self._locked[0] = before\n",
        "            pass\n",
        "tests/unit/test_tickets.py",
    ),
    Guard(
        "4: the parent starts no attempt without a lease",
        "backend/worker/parent/unreported.py",
        "        if claim.ids and not claim.leased:\n",
        "        if False:\n",
        "tests/integration/test_submitted_attempts.py",
    ),
    Guard(
        "4: a worker whose processes are busy returns its messages",
        "backend/worker/parent/waiting.py",
        "            self._return_all()\n\n    def _return_all",
        "            pass\n\n    def _return_all",
        SERIES + "test_tasks_behind_a_long_one_run_on_another_worker",
    ),
    Guard(
        "a worker that stops begins no further attempt",
        "backend/worker/parent/ordinary.py",
        "                each.give_rest_back()\n",
        "                pass\n",
        SERIES + "test_a_worker_that_stops_begins_no_further_task",
    ),
    Guard(
        "3: a fork does not use the connection of a group",
        "backend/worker/attempt/group.py",
        "        if os.getpid() != self._pid:\n",
        "        if False:\n",
        SERIES + "test_a_process_that_a_task_forked_may_report_progress",
    ),
    Guard(
        "3: a task cannot ignore that its transaction was refused",
        "backend/db/task_session.py",
        "            if self._begin_error is not None:\n",
        "            if False:\n",
        "tests/integration/test_session.py",
    ),
    Guard(
        "6: STARTED is reported when its claim is on disk",
        "backend/db/queries.py",
        "AND progress IS NULL AND started_at <= now()",
        "AND false",
        "tests/integration/test_claims.py",
    ),
    Guard(
        "6: the claim of a last attempt is on disk",
        "backend/worker/attempt/attempt.py",
        " or self.number >= most",
        "",
        "tests/integration/test_claims.py",
    ),
    Guard(
        "a message that a worker holds for a moment is not taken for lost",
        "backend/maintenance/republish.py",
        "                if now - since[each] > long:",
        "                if True:",
        "tests/integration/test_reconciler.py",
    ),
    Guard(
        "4: a held attempt gets the message that replaces its own",
        "backend/worker/parent/request.py",
        "        if held.acknowledged or not (lost or went_back(held.message)):\n",
        "        if True:\n",
        "tests/unit/test_request.py",
    ),
]
