"""Guards of cancel and retry, and of requests that pages of other web sites send."""

from __future__ import annotations

from .guard import Guard

LEDGER = "tests/integration/test_control.py"
ROUTES = "tests/acceptance/test_control.py::"

GUARDS = [
    Guard(
        "9: a locked task delays no other that is cancelled",
        "backend/db/locked.py",
        "_LOCK_FREE if skip_locked else _LOCK",
        "_LOCK",
        LEDGER,
    ),
    Guard(
        "4: an old task that is retried is seen by the scan of unfinished tasks",
        "backend/db/control.py",
        '    connection.execute(_LOWER_UNFINISHED_FROM, {"ids": array(changed)})\n',
        "",
        LEDGER,
    ),
    Guard(
        "4: the first renewal after a cancel kills the attempt",
        "backend/worker/parent/lease.py",
        "if revoked or key in self._lost_before:",
        "if key in self._lost_before:",
        "tests/integration/test_leases.py",
    ),
    Guard(
        "2: of two simultaneous retries one is refused",
        "backend/api/control.py",
        "change._replace(changed=False)",
        "change",
        LEDGER,
    ),
    Guard(
        "6: a reply about a task that may be retried is not taken for its end",
        "backend/broker/reply.py",
        'case {"state": State.SUCCESS, "result": str(result)}:\n'
        "            return TaskRecord(task_id, state=State.SUCCESS, result=result)\n",
        'case {"state": str(state)}:\n'
        '            return TaskRecord(task_id, state=State(state), error="")\n',
        "tests/unit/test_results.py",
    ),
    Guard(
        "4: a cancelled attempt is killed while the broker is away",
        "backend/worker/parent/consumer.py",
        "            lease.kill_lost()",
        "            pass",
        "tests/acceptance/test_cancelled_processes.py::test_a_cancelled_attempt_is_killed"
        "_while_the_broker_is_away",
    ),
    Guard(
        "a page of another web site cancels nothing",
        "backend/api/same_origin.py",
        '    if not _is_allowed(dict(request.scope["headers"])):\n        raise OtherSite\n',
        "    _is_allowed({})\n",
        ROUTES + "test_a_page_of_another_web_site_changes_nothing",
    ),
    Guard(
        "4: those who wait for a cancelled task get a reply",
        "backend/api/bulk.py",
        "        reply_soon(cancelled, REVOKED, CANCELLED)\n",
        "        pass\n",
        LEDGER + "::test_a_cancelled_task_has_a_reply",
    ),
    Guard(
        "4: those who wait for an expired task get a reply",
        "backend/maintenance/expiry.py",
        "                reply_soon(ended, REVOKED, EXPIRED)\n",
        "                pass\n",
        LEDGER + "::test_an_expired_task_has_a_reply",
    ),
    Guard(
        "4: those who wait for a task that fails with its worker get a reply",
        "backend/maintenance/rescue.py",
        "        reply_ended(ended.values(), FAILURE, LOST)\n",
        "        pass\n",
        LEDGER + "::test_a_task_that_fails_with_its_lost_worker_has_a_reply",
    ),
    Guard(
        "4: those who wait for a waiting task that is revoked get a reply",
        "backend/worker/parent/unreported.py",
        "        reply_soon([task], REVOKED, error)\n",
        "        pass\n",
        LEDGER + "::test_a_waiting_task_that_is_revoked_through_celery_has_a_reply",
    ),
    Guard(
        "4: a late copy of a revoke leaves a task that was retried since",
        "backend/db/locked.py",
        "        if connection.execute(_DUE_SINCE, values).scalar():\n",
        "        if False:\n",
        "tests/integration/test_unreported.py",
    ),
    Guard(
        "4: the attempt of a task that was cancelled and retried is killed at once",
        "backend/db/leases.py",
        "AND status = '{REVOKED}'",
        "AND status = ''",
        "tests/integration/test_leases.py",
    ),
    Guard(
        "a revoke of a locked task does not keep the lease from being renewed",
        "backend/worker/parent/unreported.py",
        "transaction(lock_seconds=LOCK_SECONDS)",
        "transaction()",
        "tests/integration/test_unreported.py",
    ),
]
