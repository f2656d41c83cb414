"""Guards of a worker of threads."""

from __future__ import annotations

from .guard import Guard

POOL = "backend/worker/parent/threads.py"
COMMITS = "backend/worker/attempt/thread.py"
SERVICE = "tests/acceptance/test_threads.py::"
DATABASE = "tests/integration/test_threads.py::"

GUARDS = [
    Guard(
        "3: an attempt in a thread no longer counts after its time limit",
        POOL,
        "self._hub.call_later(job.time_limit, self._time_out,",
        "self._hub.call_later(3600, self._time_out,",
        SERVICE
        + "test_an_attempt_over_its_time_limit_no_longer_counts_although_its_thread_goes_on",
    ),
    Guard(
        "3: a coroutine is cancelled after its time limit",
        POOL,
        "        coroutines.cancel(number)\n",
        "",
        SERVICE + "test_an_async_attempt_over_its_time_limit_is_cancelled",
    ),
    Guard(
        "3: a fenced attempt neither records an error nor is given back",
        "backend/worker/attempt/attempt.py",
        'StoreUnavailable, Fenced.\n        """\n        self.refuse_if_fenced()\n',
        'StoreUnavailable, Fenced.\n        """\n',
        DATABASE + "test_a_fenced_attempt_records_no_error",
    ),
    Guard(
        "3: an attempt that was fenced before its function starts does not run",
        COMMITS,
        "        attempt.refuse_if_fenced()\n",
        "",
        DATABASE + "test_an_attempt_that_was_fenced_during_its_claim_does_not_run",
    ),
    Guard(
        "4: a worker whose threads all hang ends",
        POOL,
        "            lease.end_now()\n",
        "",
        SERVICE + "test_a_worker_whose_threads_all_hang_ends_itself",
    ),
    Guard(
        "4: attempts in threads may end while the worker stops",
        POOL,
        "        while any(not job.fenced_at for job in self._jobs.values()):\n",
        "        while False:\n",
        SERVICE + "test_what_runs_in_threads_is_handed_back_when_the_worker_stops",
    ),
    Guard(
        "7: few threads hold a transaction",
        "backend/db/session.py",
        "pool_size=SESSIONS, max_overflow=0,",
        "pool_size=SESSIONS, max_overflow=100,",
        SERVICE + "test_sessions_are_used_by_20_threads_at_once",
    ),
    Guard(
        "2: an attempt with a limit is not claimed together with others",
        COMMITS,
        "alone = attempt.limit or attempt.delivery.external",
        "alone = attempt.delivery.external",
        "tests/integration/test_threads.py::test_an_attempt_with_a_limit_waits_for_the_running_one",
    ),
    Guard(
        "2: two deliveries of an attempt are not claimed together",
        COMMITS,
        "        return [attempt in claimed for attempt in attempts]\n",
        "        return [attempt.id in {each.id for each in claimed} for attempt in attempts]\n",
        DATABASE + "test_two_deliveries_of_an_attempt_in_one_batch_run_once",
    ),
    Guard(
        "4: a locked row does not delay the claims of other threads",
        COMMITS,
        "                skip_locked=True,\n",
        "",
        DATABASE + "test_a_locked_row_does_not_delay_the_claims_of_others",
    ),
    Guard(
        "4: an exit of a coroutine does not end the event loop of all",
        "backend/loop.py",
        "                except BaseException:  # SystemExit, of a callback\n",
        "                except ValueError:\n",
        SERVICE + "test_an_exit_of_a_coroutine_ends_only_its_own_attempt",
    ),
    Guard(
        "9: a process that a thread's task has forked ends by SIGTERM",
        POOL,
        "        os.register_at_fork(after_in_child=_default_signals)\n",
        "",
        SERVICE + "test_a_task_in_a_thread_can_terminate_a_process_that_it_has_forked",
    ),
    Guard(
        "4: an attempt for which no thread can be started waits, and does not fail",
        POOL,
        "            except RuntimeError as error:\n",
        "            except ValueError as error:\n",
        "tests/unit/test_thread_pool.py::"
        "test_an_attempt_waits_for_a_thread_that_the_machine_cannot_start_yet",
    ),
    Guard(
        "2: threads claim nothing without a lease",
        COMMITS,
        "            if not claim.leased:\n",
        "            if False:\n",
        DATABASE + "test_a_claim_without_a_lease_waits_for_the_lease",
    ),
    Guard(
        "7: a worker of threads takes no short tasks",
        "backend/worker/__init__.py",
        'if settings().worker_pool == "threads" and SHORT_TASKS in settings().queues:',
        "if False:",
        SERVICE + "test_a_worker_of_threads_takes_no_short_tasks",
    ),
]
