"""Guards of a worker's parent process: requests, the pool, the lease, stray messages."""

from __future__ import annotations

from .guard import Guard

GUARDS = [
    Guard(
        "a worker sets no environment variable while threads run",
        "backend/worker/parent/lease.py",
        '        os.environ.setdefault(name, "")\n',
        "        pass\n",
        "tests/acceptance/test_processes_in_tasks.py::test_a_worker_sets_no_environment_variable"
        "_while_threads_run",
    ),
    Guard(
        "4: an attempt whose process died is counted",
        "backend/worker/parent/request.py",
        "        lease.write_soon(partial(record_failure, self.delivery, self.hostname, error))\n",
        "",
        "tests/acceptance/test_long_tasks.py::test_a_task_that_always_kills_its_process_fails"
        "_after_its_attempts[kill_its_process_in_one_commit-3]",
    ),
    Guard(
        "4: a worker whose event loop hangs ends itself",
        "backend/worker/parent/hang.py",
        "return self.count >= CHECKS",
        "return False",
        "tests/acceptance/test_hanging.py::test_a_worker_with_a_hung_event_loop_ends_and_its"
        "_tasks_run_elsewhere",
    ),
    Guard(
        "4: no worker ends itself because the broker is unavailable",
        "backend/worker/parent/hang.py",
        "ticked or not reached()",
        "ticked",
        "tests/unit/test_hang.py",
    ),
    Guard(
        "a worker pauses before it reconnects to a broker that refuses it",
        "backend/worker/parent/consumer.py",
        "            self._pause(exc)\n        self._ready = False\n",
        '            broker_outage.failed(explain(exc), "consumer")\n        self._ready = False\n',
        "tests/acceptance/test_refusals.py::test_each_process_logs_one_line_while_the_broker"
        "_refuses_it_and_then_recovers[no_permission]",
    ),
    Guard(
        "4: events and replies are not sent while the broker is blocked",
        "backend/broker/hints.py",
        "        return not self._blocked\n",
        "        return True\n",
        "tests/unit/test_hints.py",
    ),
    Guard(
        "4: hints pause after a failed one",
        "backend/broker/hints.py",
        "time.monotonic() + seconds",
        "0.0",
        "tests/unit/test_hints.py",
    ),
    Guard(
        "4: a heartbeat is not retried in the event loop",
        "backend/worker/__init__.py",
        "app.events.dispatcher_cls = Dispatcher",
        "Dispatcher",
        "tests/acceptance/test_hanging.py::test_a_worker_started_during_a_memory_alarm_works_then"
        "_and_afterwards",
    ),
    Guard(
        "2: an attempt that is no longer current is killed in the event loop",
        "backend/worker/parent/lease.py",
        "hub.call_soon(self.kill_lost)",
        "self.kill_lost()",
        "tests/integration/test_leases.py",
    ),
    Guard(
        "2: a child is killed only while the attempt still runs",
        "backend/worker/parent/request.py",
        "if self in celery_state.active_requests and not self.shares_job:",
        "if not self.shares_job:",
        "tests/unit/test_request.py",
    ),
    Guard(
        "2: no child is killed because of one member of a batch",
        "backend/worker/parent/request.py",
        "if self in celery_state.active_requests and not self.shares_job:",
        "if self in celery_state.active_requests:",
        "tests/unit/test_request.py",
    ),
    Guard(
        "2: only the ledger decides whether a revoked task runs",
        "backend/worker/parent/request.py",
        "        if not self.delivery.external:\n            return self._already_revoked\n",
        "",
        "tests/acceptance/test_revokes.py::test_a_revoked_task_runs_when_the_ledger_gives_it"
        "_another_attempt",
    ),
    Guard(
        "8: an error while a message is decoded is not treated as a broker error",
        "backend/worker/parent/consumer.py",
        "        except Exception as error:  # noqa: BLE001 - any message",
        "        except self.connection_errors:\n"
        "            raise\n"
        "        except Exception as error:",
        "tests/acceptance/test_malformed_messages.py",
    ),
    Guard(
        "8: a Redis entry that is no message is dropped",
        "backend/worker/parent/malformed.py",
        "        transport.Channel = Channel",
        "        pass",
        "tests/acceptance/test_malformed_messages.py",
    ),
    Guard(
        "8: a message with properties that amqp cannot read is dropped",
        "backend/worker/parent/malformed.py",
        "_readers[Basic.CLASS_ID] = _properties",
        "_readers[Basic.CLASS_ID] = _read_properties",
        "tests/acceptance/test_malformed_messages.py::test_a_message_with_unreadable_properties"
        "_is_logged_and_dropped",
    ),
    Guard(
        "2: a lost Redis does not end a worker",
        "backend/worker/parent/redis_channel.py",
        "    QoS = Unacknowledged\n\n",
        "",
        "tests/integration/test_redis_channel.py",
    ),
    Guard(
        "chaos: a partly read result is completed after the event loop restarts",
        "backend/worker/parent/pool.py",
        "        reading = self._unfinished(child, fd)\n",
        "        reading = None\n",
        "tests/unit/test_pool.py",
    ),
    Guard(
        "chaos: the event loop restarts with an ended child in the pool",
        "backend/worker/parent/pool.py",
        '        if getattr(proc, "_sentinel_poll", proc) is not None:\n',
        "        if proc:\n",
        "tests/unit/test_pool.py",
    ),
    Guard(
        "chaos: the rest of a result is read from a child that has ended",
        "backend/worker/parent/pool.py",
        "                next(reading)\n",
        "                pass\n",
        "tests/unit/test_pool.py",
    ),
    Guard(
        "chaos: ended children are handled before their jobs are dropped",
        "backend/worker/parent/pool.py",
        "        self.maintain_pool()\n",
        "",
        "tests/unit/test_pool.py",
    ),
    Guard(
        "chaos: a stopping worker ends even if its shutdown hangs",
        "backend/worker/parent/lease.py",
        "        time.sleep(EXIT_TIMEOUT)\n        os._exit(self._worker.exitcode or 0)\n",
        "",
        "tests/unit/test_lease.py",
    ),
    Guard(
        "a worker that stops counts no attempt of the tasks whose processes it kills",
        "backend/worker/parent/lease.py",
        "        if self._stopping.is_set():\n            return  # the worker kills",
        "        if False:\n            return  # the worker kills",
        "tests/unit/test_lease.py",
    ),
    Guard(
        "installations: dropped messages of known tasks are not reported",
        "backend/worker/stray_messages.py",
        "                return\n        with transaction",
        "                pass\n        with transaction",
        "tests/integration/test_stray_messages.py",
    ),
    Guard(
        "installations: no messages are looked up after a stray one was reported",
        "backend/worker/stray_messages.py",
        "    if time.monotonic() < _pause_until:\n        return\n",
        "",
        "tests/integration/test_stray_messages.py",
    ),
    Guard(
        "3: an attempt that could not be sent to a child fails",
        "backend/worker/parent/jobs.py",
        "            self._single.end_with(error)\n",
        "",
        "tests/unit/test_jobs.py",
    ),
    Guard(
        "2: the lease lists a single attempt of a short task",
        "backend/worker/parent/jobs.py",
        "            request.shares_job = self._single is None\n",
        "",
        "tests/unit/test_jobs.py",
    ),
    Guard(
        "2: an ordinary task never runs in a batch",
        "backend/worker/parent/short.py",
        "            if registered()[request.delivery.name].one_commit:\n",
        "            if True:\n",
        "tests/unit/test_short_tasks.py",
    ),
    Guard(
        "an external task gets Celery's reply in a batch too",
        "backend/broker/results.py",
        "            if is_reply_queue(reply_to):\n",
        "            if len(ended) > 1:\n",
        "tests/unit/test_results.py",
    ),
    Guard(
        "9: the subprocesses of a pool process end with it",
        "backend/worker/parent/pool.py",
        "            subprocesses.kill_with_subprocesses(proc.pid)\n",
        "",
        "tests/acceptance/test_subprocesses.py",
    ),
    Guard(
        "a task may use multiprocessing",
        "backend/worker/parent/subprocesses.py",
        "    process._current_process = _MAIN_PROCESS",
        "    process._not_current = _MAIN_PROCESS",
        "tests/acceptance/test_processes_in_tasks.py::test_a_task_can_use_multiprocessing",
    ),
    Guard(
        "the end of a child is noticed soon",
        "backend/worker/parent/pool.py",
        "        if proc in self._pool:\n",
        "        if proc is None:\n",
        "tests/unit/test_pool.py",
    ),
    Guard(
        "a child at its task limit gets no job",
        "backend/worker/parent/pool.py",
        "            if child.jobs_done >= self._maxtasksperchild:\n                return\n",
        "",
        "tests/unit/test_pool.py",
    ),
    Guard(
        "a failed fork affects no other pool process",
        "backend/worker/parent/pool.py",
        "[each for each in self._pool if each not in before]",
        "self._pool[-1:]",
        "tests/unit/test_pool.py",
    ),
    Guard(
        "4: a worker's processes do not wait for an import of a thread that they do not have",
        "backend/worker/parent/lease.py",
        "    lease_engine()\n    _lease",
        "    _lease",
        "tests/unit/test_lease.py",
    ),
    Guard(
        "a worker that was busy when its connection was lost goes on",
        "backend/worker/parent/waiting.py",
        "        if source is self._source:\n",
        "        if True:\n",
        "tests/unit/test_waiting.py",
    ),
]
