"""Guards of attempts: the task's call, its session, its outcome."""

from __future__ import annotations

from .guard import Guard

GUARDS = [
    Guard(
        "losing PostgreSQL during a task costs no attempt",
        "backend/worker/attempt/one.py",
        "        attempt.give_back(reason)\n",
        "        raise StatementFailed(reason) from error\n",
        "tests/acceptance/test_read_only.py::test_a_read_only_postgresql_costs_no_attempt_and"
        "_each_write_route_reports_it[by_default]",
    ),
    Guard(
        "2: a worker without a lease starts no task",
        "backend/worker/attempt/attempt.py",
        "        elif not claim.leased:\n",
        "        elif False:\n",
        "tests/integration/test_reconciler.py",
    ),
    Guard(
        "2: an external message with the id of another task is dropped",
        "backend/worker/attempt/attempt.py",
        "        if self.adopt(connection):\n",
        "        if self.adopt(connection) or True:\n",
        "tests/integration/test_task_ends.py",
    ),
    Guard(
        "2: an external message with the id of another short task is dropped",
        "backend/worker/attempt/batch.py",
        "            if not attempt.adopt(session):\n                raise Duplicate\n",
        "            attempt.adopt(session)\n",
        "tests/integration/test_task_ends.py",
    ),
    Guard(
        "2: only one of two external messages with the same id is run",
        "backend/worker/attempt/attempt.py",
        "        except IntegrityError:\n            return False\n",
        "        except IntegrityError:\n            return True\n",
        "tests/integration/test_task_ends.py",
    ),
    Guard(
        "2: the claim of an external task can be retried",
        "backend/worker/attempt/attempt.py",
        "with connection.begin_nested():",
        "if True:",
        "tests/integration/test_reconciler.py",
    ),
    Guard(
        "a failure is recorded before it is logged",
        "backend/worker/attempt/outcomes.py",
        "    end = _record(attempt, error)\n",
        '    logger.error("%s raised", attempt.what)\n    end = _record(attempt, error)\n',
        "tests/unit/test_execute.py",
    ),
    Guard(
        "installations: a dropped message of a single attempt is looked up",
        "backend/worker/attempt/one.py",
        "    except Duplicate:\n        note_dropped([attempt])\n",
        "    except Duplicate:\n        pass\n",
        "tests/integration/test_stray_messages.py",
    ),
    Guard(
        "installations: dropped messages of a batch are looked up",
        "backend/worker/attempt/batch.py",
        "    if len(outcomes) < len(attempts):\n        note_dropped(",
        "    if False:\n        note_dropped(",
        "tests/integration/test_stray_messages.py",
    ),
    Guard(
        "2: a claim whose connection broke after its commit is recognised",
        "backend/worker/attempt/attempt.py",
        "            if self._claim_transaction_id and committed(connection, "
        "self._claim_transaction_id):\n                return True\n",
        "",
        "tests/integration/test_reconciler.py",
    ),
    Guard(
        "3: the session is flushed before the next task begins",
        "backend/db/task_session.py",
        "            self.flush()\n",
        "",
        "tests/integration/test_task_session.py",
    ),
    Guard(
        "9: the worker validates the arguments as the API does",
        "backend/call.py",
        "spec.arguments.model_validate_json(text)",
        "spec.arguments.model_validate(__import__('json').loads(text))",
        "tests/integration/test_round_trip.py",
    ),
    Guard(
        "a result uses the field names of the OpenAPI document",
        "backend/call.py",
        "model_dump_json(by_alias=True)",
        "model_dump_json()",
        "tests/unit/test_openapi_results.py",
    ),
    Guard(
        "9: an infinite number in a result does not become null",
        "backend/call.py",
        '    if "null" in text and',
        "    if False and",
        "tests/integration/test_round_trip.py",
    ),
    Guard(
        "3: an internal error in a child does not reach the parent process",
        "backend/worker/attempt/execute.py",
        "        return Report()\n",
        "        raise\n",
        "tests/unit/test_execute.py",
    ),
    Guard(
        "3: any exception in a task ends its attempt",
        "backend/worker/attempt/one.py",
        "    except BaseException as error:\n        if terminate_handler_fired():\n"
        "            raise  # this",
        "    except Exception as error:\n        if terminate_handler_fired():\n"
        "            raise  # this",
        "tests/acceptance/test_task_errors.py",
    ),
    Guard(
        "3: any exception in a short task is recorded as that task's error",
        "backend/worker/attempt/batch.py",
        "    except BaseException as error:\n        if terminate_handler_fired():\n"
        "            raise  # SIGTERM, as",
        "    except ValueError as error:\n        if terminate_handler_fired():\n"
        "            raise  # SIGTERM, as",
        "tests/integration/test_task_session.py",
    ),
    Guard(
        "9: a fork of a task's process ends and reports nothing",
        "backend/call.py",
        "        if os.getpid() != pid:\n            _end_fork()\n",
        "        pass\n",
        "tests/acceptance/test_processes_in_tasks.py::test_a_fork_of_a_tasks_process_reports"
        "_nothing_and_does_not_use_its_connection",
    ),
    Guard(
        "a task that always breaks its connection is not retried without limit",
        "backend/worker/attempt/batch.py",
        "        if max(attempt.losses for attempt in attempts) < MAX_LOSSES:\n",
        "        if True:\n",
        "tests/integration/test_task_ends.py",
    ),
    Guard(
        "a function that takes lists returns a value for each argument",
        "backend/call.py",
        "    if len(values) != count:\n",
        "    if False:\n",
        "tests/integration/test_lists.py",
    ),
    Guard(
        "after an error in a call for several tasks the function is called for each of them",
        "backend/worker/attempt/batch.py",
        "        raise TaskRaised(*ids) from error\n",
        "        raise TaskRaised(ids[0]) from error\n",
        "tests/integration/test_lists.py",
    ),
    Guard(
        "a lost connection in a call for several tasks is blamed on none of them",
        "backend/worker/attempt/batch.py",
        "        raise TaskRaised(*ids) from failed\n",
        "        raise TaskRaised(ids[0]) from failed\n",
        "tests/integration/test_lists.py",
    ),
    Guard(
        "a batch starts again only a few times",
        "backend/worker/attempt/batch.py",
        "            if errors < MAX_FAILED:\n",
        "            if True:\n",
        "tests/integration/test_lists.py",
    ),
    Guard(
        "a function that takes lists gets only tasks that wait",
        "backend/worker/attempt/batch.py",
        "_calls(attempt for attempt in attempts if attempt.id in claim.ids)",
        "_calls(attempts)",
        "tests/integration/test_lists.py",
    ),
    Guard(
        "a task that changes its own row is not retried without limit",
        "backend/worker/attempt/outcomes.py",
        "        error = TaskError(OWN_ROW)\n",
        "        return None\n",
        "tests/integration/test_task_ends.py",
    ),
    Guard(
        "a session that a task keeps cannot be used after its end",
        "backend/db/task_session.py",
        ", close_resets_only=False",
        "",
        "tests/integration/test_task_session.py::test_a_session_kept_by_a_task_cannot_be_used"
        "_after_its_end",
    ),
    Guard(
        "a task's transaction uses the task's time limit as its limits",
        "backend/db/task_session.py",
        "        if self._time_limit is not None:\n",
        "        if self._time_limit is not None and self.began is not None:\n",
        "tests/integration/test_task_settings.py::test_an_ordinary_task_may_exceed_the_default"
        "_transaction_limits",
    ),
    Guard(
        "a claim lost in a failover does not fail the task",
        "backend/worker/attempt/attempt.py",
        "waiting=not self.started,\n                retry=retry",
        "waiting=True,\n                retry=retry",
        "tests/integration/test_task_ends.py",
    ),
    Guard(
        "a task gets TimeUp before its time limit",
        "backend/worker/attempt/time_up.py",
        "    signal.setitimer(signal.ITIMER_REAL, seconds)\n",
        "",
        "tests/acceptance/test_time_limits.py::"
        "test_a_task_can_end_in_order_when_its_time_limit_is_near",
    ),
    Guard(
        "a task sees that its worker stops",
        "backend/worker/parent/lease.py",
        "        stopping.announce(time.monotonic() + self._stop_seconds)\n",
        "",
        "tests/acceptance/test_time_limits.py::test_a_task_sees_that_its_worker_stops",
    ),
]
