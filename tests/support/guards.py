"""Take the guard of each rule out, in a copy, and see its test fail: `make guards`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .documents import NAMES

ROOT = Path(__file__).resolve().parent.parent.parent
# The documents too: one test tries what they say about migrations.
COPIED = ("backend", "deploy", "examples", "tests", "pyproject.toml", *NAMES)


@dataclass(frozen=True)
class Guard:
    """A guard: what it holds, where it stands, what takes it out, and the tests that must fail."""

    holds: str
    file: str
    code: str
    without: str
    tests: str


GUARDS = [
    Guard(
        "the environment wins over .env",
        "backend/settings.py",
        "load_dotenv(stream=io.StringIO(text))",
        "load_dotenv(stream=io.StringIO(text), override=True)",
        "tests/unit/test_settings.py",
    ),
    Guard(
        "the servers of an up that was killed end with its processes",
        "backend/local/lifetime.py",
        "    os.read(reading, 1)\n    _end_servers(sockets)\n",
        "    os.read(reading, 1)\n",
        "tests/acceptance/test_embedded.py::test_one_that_is_killed_leaves_nothing",
    ),
    Guard(
        "a damaged note of a killed up ends no other server and deletes no other folder",
        "backend/local/lifetime.py",
        "    if sockets and Path(sockets).name.startswith(SOCKETS_PREFIX):\n",
        "    if sockets:\n",
        "tests/unit/test_embedded.py::test_a_note_of_a_folder_that_is_not_ours_ends_and_removes_nothing",
    ),
    Guard(
        "all stops when make is killed",
        "backend/local/supervisor.py",
        " or self._closed.is_set() or orphaned",
        " or self._closed.is_set()",
        "tests/unit/test_supervisor.py::test_all_stops_when_its_parent_is_gone",
    ),
    Guard(
        "reset deletes nothing without an answer",
        "backend/cli.py",
        "        if not yes:\n",
        "        if False:\n",
        "tests/acceptance/test_embedded.py::test_reset_asks_and_does_nothing_without_an_answer",
    ),
    Guard(
        "a read-only PostgreSQL's connections are given up",
        "backend/db/session.py",
        "        context.is_disconnect = True\n        for made in _engines():\n"
        "            made.dispose()\n",
        "        pass\n",
        "tests/acceptance/test_read_only.py::test_a_read_only_postgresql_costs_no_attempt_and_each"
        "_route_says_so[by_default]",
    ),
    Guard(
        "losing PostgreSQL in the middle of a task costs no attempt",
        "backend/worker/attempt/execute.py",
        "        attempt.give_back(reason)\n        raise\n",
        "        raise StatementFailed(reason) from error\n",
        "tests/acceptance/test_read_only.py::test_a_read_only_postgresql_costs_no_attempt_and_each"
        "_route_says_so[by_default]",
    ),
    Guard(
        "readiness tries a write",
        "backend/api/readiness.py",
        "        writable.try_insert(connection, writable.LARGE if large else writable.SMALL)\n",
        "",
        "tests/acceptance/test_read_only.py::test_a_read_only_postgresql_costs_no_attempt_and_each"
        "_route_says_so[by_default]",
    ),
    Guard(
        "a stream tells the ids of what was stored",
        "backend/api/routes/batch_lines.py",
        "        except Exception as error:  # noqa: BLE001 - what is",
        "        except HTTPError as error:  # what is",
        "tests/acceptance/test_submissions.py::test_a_stream_tells_the_ids_of_what_was_stored"
        "_whatever_fails_later",
    ),
    Guard(
        "a key counts for one form of request",
        "backend/api/submissions.py",
        'hashlib.sha256(f"{self.form}\\0".encode())',
        "hashlib.sha256()",
        "tests/acceptance/test_submissions.py::test_a_key_counts_for_the_form_of_request_that_it"
        "_first_came_with",
    ),
    Guard(
        "a stream's keys are no client's",
        "backend/api/routes/batch_lines.py",
        'f"{key} {number}" if key and number else key',
        'f"{key}/{number}" if key else key',
        "tests/acceptance/test_submissions.py::test_no_key_of_a_client_is_that_of_a_streams_part",
    ),
    Guard(
        "a known key is answered while new requests are refused",
        "backend/api/submissions.py",
        "            if request.key is None or (first",
        "            if True or (first",
        "tests/acceptance/test_backlog.py::test_a_repeated_request_is_answered_while_new_ones_are"
        "_refused",
    ),
    Guard(
        "a repeated request does not count as waiting",
        "backend/api/submissions.py",
        "        self._backlog.release(len(request.tasks))\n",
        "",
        "tests/unit/test_submissions.py",
    ),
    Guard(
        "1: 202 only after the commit",
        "backend/api/submissions.py",
        "first = await batcher.submit(request)",
        "import asyncio; asyncio.ensure_future(batcher.submit(request)); first = None",
        "tests/acceptance/test_submissions.py::test_a_task_is_accepted_after_its_commit",
    ),
    Guard(
        "1: ledger row and outbox row together",
        "backend/db/ledger.py",
        "INSERT INTO outbox (task_id) SELECT id FROM new ORDER BY id",
        "SELECT 1",
        "tests/integration/test_ledger.py::test_a_submission_writes_both_rows_or_none",
    ),
    Guard(
        "2: a claim names the attempt",
        "backend/db/ledger.py",
        "wanted.id AND attempt = wanted.attempt AND",
        "wanted.id AND",
        "tests/integration/test_ledger.py",
    ),
    Guard(
        "2: an ended task does not succeed again",
        "backend/db/ledger.py",
        "{row}attempt AND {_UNFINISHED}",
        "{row}attempt",
        "tests/integration/test_ledger.py",
    ),
    Guard(
        "2: an ended task does not fail",
        "backend/db/ledger.py",
        "AND tasks.attempt < {LAST_ATTEMPT} AND {_UNFINISHED}",
        "AND tasks.attempt < {LAST_ATTEMPT}",
        "tests/integration/test_ledger.py",
    ),
    Guard(
        "2: a worker ends no attempt of another",
        "backend/db/ledger.py",
        "THEN tasks.worker = :worker ELSE",
        "THEN true ELSE",
        "tests/integration/test_ledger.py",
    ),
    Guard(
        "3: effect and outcome commit together",
        "backend/task.py",
        "    def progress(self",
        "    def __post_init__(self) -> None:\n"
        "        self.session.connection(execution_options={'isolation_level': 'AUTOCOMMIT'})\n\n"
        "    def progress(self",
        "tests/acceptance/test_effects.py::test_a_task_that_raises_leaves_no_effect_and_fails_after"
        "_its_attempts",
    ),
    Guard(
        "2: several tasks are looked up one by one",
        "backend/db/ledger.py",
        "SET LOCAL enable_seqscan = off;",
        "",
        "tests/integration/test_plans.py",
    ),
    Guard(
        "no variable comes into a worker's environment beside threads",
        "backend/worker/parent/lease.py",
        '        os.environ.setdefault(name, "")\n',
        "        pass\n",
        "tests/acceptance/test_processes_in_tasks.py::test_no_variable_comes_into_a_workers"
        "_environment_beside_threads",
    ),
    Guard(
        "2: a worker without a lease starts nothing",
        "backend/worker/attempt/attempt.py",
        "            if not claim.leased:\n",
        "            if False:\n",
        "tests/integration/test_reconciler.py",
    ),
    Guard(
        "2: a claim of another program's task may be tried again",
        "backend/worker/attempt/attempt.py",
        "with connection.begin_nested():",
        "if True:",
        "tests/integration/test_reconciler.py",
    ),
    Guard(
        "3: a batch is claimed before it works",
        "backend/db/ledger.py",
        " AND {_WAITING}\n            FOR UPDATE",
        "",
        "tests/integration/test_batches.py",
    ),
    Guard(
        "3: no clock decides whether a worker lives",
        "backend/db/leases.py",
        '(SELECT FROM workers WHERE name = :name)")',
        '(SELECT FROM workers WHERE name = :name AND expires_at > now())")',
        "tests/integration/test_leases.py::test_a_lease_lasts_whatever_the_clock_says",
    ),
    Guard(
        "3: after a pause in the looks a worker is watched for a whole lease",
        "backend/maintenance/liveness.py",
        "            self._renewals.clear()",
        "            pass",
        "tests/unit/test_liveness.py",
    ),
    Guard(
        "3: a suspect is abandoned after two more renewals",
        "backend/maintenance/liveness.py",
        "RENEWALS = 2",
        "RENEWALS = 1",
        "tests/unit/test_liveness.py",
    ),
    Guard(
        "3: a worker that has renewed its lease in the meantime is not fenced",
        "backend/db/leases.py",
        "renewed_at IS DISTINCT FROM CAST(:renewed_at AS timestamptz)",
        "false",
        "tests/integration/test_leases.py::test_a_worker_that_has_renewed_in_the_meantime_is_left"
        "_alone",
    ),
    Guard(
        "3: what waits follows a clock that is set back",
        "backend/maintenance/reconciler.py",
        "        if set_back:",
        "        if set_back and not now:",
        "tests/acceptance/test_clock_steps.py::test_a_retry_comes_in_time_although_the_clock_was"
        "_set_back",
    ),
    Guard(
        "4: a dead worker's tasks run again",
        "backend/maintenance/rescue.py",
        "        lost = [attempt for attempt in started if attempt.worker in dead]",
        "        lost = []",
        "tests/acceptance/test_long_tasks.py::test_a_task_whose_worker_is_killed_runs_again_on"
        "_another",
    ),
    Guard(
        "4: what the broker lost is published again",
        "backend/maintenance/republish.py",
        "        lost = before & self._missing\n",
        "        lost = before - before\n",
        "tests/acceptance/test_crashes.py::test_each_accepted_message_is_written_once"
        "[delete_the_queues-1]",
    ),
    Guard(
        "4: a process that the parent saw die counts as an attempt",
        "backend/worker/parent/request.py",
        "        lease.report(Failure(self.delivery, self.hostname, error))\n",
        "",
        "tests/acceptance/test_long_tasks.py::test_a_task_that_kills_its_process_each_time_fails_in"
        "_the_end[kill_its_process_in_one_commit-3]",
    ),
    Guard(
        "4: a worker whose event loop hangs ends",
        "backend/worker/parent/hang.py",
        "return self.count >= CHECKS",
        "return False",
        "tests/acceptance/test_hanging.py::test_a_worker_whose_event_loop_hangs_ends_and_its_tasks"
        "_run_elsewhere",
    ),
    Guard(
        "4: a broker that is away lets no worker end",
        "backend/worker/parent/hang.py",
        "ticked or not reached()",
        "ticked",
        "tests/unit/test_hang.py",
    ),
    Guard(
        "an outage is one line for each reason",
        "backend/telemetry/outage.py",
        "            new = reason.kind not in self._since\n",
        "            new = True\n",
        "tests/unit/test_outage.py",
    ),
    Guard(
        "a broker that one part cannot use is not back when another can",
        "backend/telemetry/outage.py",
        "            over = not self._failures\n",
        "            over = True\n",
        "tests/unit/test_outage.py",
    ),
    Guard(
        "a worker that the broker refuses pauses",
        "backend/worker/parent/consumer.py",
        "            self._pause(exc)\n        self._ready = False\n",
        '            broker_outage.failed(explain(exc), "consumer")\n        self._ready = False\n',
        "tests/acceptance/test_refusals.py::test_a_broker_that_refuses_is_one_line_in_each_process"
        "_and_is_used_when_it_no_longer_does[no_permission]",
    ),
    Guard(
        "a commit holds no more than so many bytes of small orders",
        "backend/batcher.py",
        " and size < BATCH_BYTES",
        "",
        "tests/unit/test_batcher.py",
    ),
    Guard(
        "a relay takes no more than so many bytes at once",
        "backend/db/outbox.py",
        "WHERE before < :bytes",
        "WHERE :bytes > 0",
        "tests/integration/test_outbox.py",
    ),
    Guard(
        "4: events and replies are not sent while the broker is blocked",
        "backend/worker/parent/hints.py",
        "        return not self._blocked\n",
        "        return True\n",
        "tests/unit/test_hints.py",
    ),
    Guard(
        "4: after a failure the broker is not tried for a while",
        "backend/worker/parent/hints.py",
        "time.monotonic() + seconds",
        "0.0",
        "tests/unit/test_hints.py",
    ),
    Guard(
        "4: a heartbeat is not retried in the event loop",
        "backend/worker/__init__.py",
        "app.events.dispatcher_cls = Dispatcher",
        "Dispatcher",
        "tests/acceptance/test_hanging.py::test_a_worker_that_starts_under_a_memory_alarm_works_and"
        "_is_well_afterwards",
    ),
    Guard(
        "4: what ends by itself is started again",
        "backend/local/supervisor.py",
        "        elif not restart:\n",
        "        else:\n",
        "tests/unit/test_supervisor.py",
    ),
    Guard(
        "5: no request waits for the broker",
        "backend/api/inspector.py",
        "question.answered.wait(REPLY_TIMEOUT)",
        "question.answered.wait(10 * REPLY_TIMEOUT)",
        "tests/acceptance/test_outages.py::test_without_the_broker_tasks_are_accepted_and_listed"
        "_and_run_when_it_is_back",
    ),
    Guard(
        "6: every process reads the ledger",
        "backend/api/services.py",
        "return await self.states.submit(task_id) if is_task_id(task_id) else None",
        "self.seen = getattr(self, 'seen', {})\n"
        "        if task_id not in self.seen:\n"
        "            self.seen[task_id] = await self.states.submit(task_id)\n"
        "        return self.seen[task_id]",
        "tests/acceptance/test_contract_setups.py::test_no_replica_gives_a_wrong_or_an_older_state",
    ),
    Guard(
        "7: no transaction is open while the broker is waited for",
        "backend/relay/relay.py",
        "            batch = outbox.take(connection, BATCH, self._bundled)\n",
        "            batch = outbox.take(connection, BATCH, self._bundled)\n"
        "            if batch:\n"
        "                publisher.publish(batch)\n"
        "                return True\n",
        "tests/acceptance/test_effects.py::test_no_transaction_stays_open_while_the_broker_hangs",
    ),
    Guard(
        "8: only JSON is taken",
        "backend/broker/app.py",
        '"accept_content": ["json"]',
        '"accept_content": ["json", "pickle"]',
        "tests/acceptance/test_malformed_messages.py",
    ),
    Guard(
        "2: an attempt that no longer counts is killed in the event loop",
        "backend/worker/parent/lease.py",
        "self._worker.hub.call_soon(holds[key].kill, self._worker.pool)",
        "holds[key].kill(self._worker.pool)",
        "tests/unit/test_lease.py",
    ),
    Guard(
        "2: only the child of an attempt that still runs is killed",
        "backend/worker/parent/request.py",
        "if self in celery_state.active_requests and not self.in_batch:",
        "if not self.in_batch:",
        "tests/unit/test_request.py",
    ),
    Guard(
        "2: no child is killed for one member of a batch",
        "backend/worker/parent/request.py",
        "if self in celery_state.active_requests and not self.in_batch:",
        "if self in celery_state.active_requests:",
        "tests/unit/test_request.py",
    ),
    Guard(
        "2: the ledger alone decides about a revoked id",
        "backend/worker/parent/request.py",
        "        if not self.delivery.external:\n            return self._already_revoked\n",
        "",
        "tests/acceptance/test_other_doors.py::test_a_revoked_task_runs_when_the_ledger_gives_it"
        "_another_attempt",
    ),
    Guard(
        "a failure is recorded before it is logged",
        "backend/worker/attempt/execute.py",
        "    outcome = _record(attempt, error, retry=not final)\n",
        '    logger.error("%s raised", attempt.what)\n'
        "    outcome = _record(attempt, error, retry=not final)\n",
        "tests/unit/test_execute.py",
    ),
    Guard(
        "a traceback has no values",
        "backend/telemetry/logs.py",
        "structlog.processors.ExceptionRenderer(lambda exc_info: plain_traceback(exc_info[1])),",
        "structlog.processors.format_exc_info,",
        "tests/unit/test_telemetry.py",
    ),
    Guard(
        "8: an error while a message is read is the message's, not the broker's",
        "backend/worker/parent/consumer.py",
        "        except Exception as error:  # noqa: BLE001 - whatever was sent",
        "        except self.connection_errors:\n"
        "            raise\n"
        "        except Exception as error:",
        "tests/acceptance/test_malformed_messages.py",
    ),
    Guard(
        "8: the fields of a message are checked before Celery uses them",
        "backend/broker/wire.py",
        "    _check(fields)\n",
        "",
        "tests/acceptance/test_malformed_messages.py",
    ),
    Guard(
        "8: an entry on Redis that is no message is dropped",
        "backend/worker/parent/malformed.py",
        "        transport.Channel = Channel",
        "        pass",
        "tests/acceptance/test_malformed_messages.py",
    ),
    Guard(
        "8: properties that amqp cannot read drop the message",
        "backend/worker/parent/malformed.py",
        "_readers[Basic.CLASS_ID] = _properties",
        "_readers[Basic.CLASS_ID] = _read_properties",
        "tests/acceptance/test_malformed_messages.py::test_a_message_whose_properties_cannot_be"
        "_read_is_logged_and_dropped",
    ),
    Guard(
        "8: an unknown task is sent again later",
        "backend/broker/app.py",
        '    "worker_consumer": "backend.worker.parent.consumer:LedgerConsumer",\n',
        "",
        "tests/acceptance/test_contract_setups.py::test_a_task_that_only_a_newer_worker_knows_waits"
        "_for_it",
    ),
    Guard(
        "the list outlives a message whose id is none",
        "backend/ids.py",
        "isinstance(value, str) and _UUID",
        "_UUID",
        "tests/unit/test_task_ids.py",
    ),
    Guard(
        "a listening connection that has broken is an outage",
        "backend/db/listen.py",
        "        with store_errors():\n            self._connection.close()",
        "        self._connection.close()",
        "tests/unit/test_listen.py",
    ),
    Guard(
        "4: blocked by an alarm, a relay keeps its connection and waits for the confirms",
        "backend/relay/publisher.py",
        "                deadline = now + CONFIRM_SECONDS\n",
        "                if now > deadline:\n                    raise TimeoutError\n",
        "tests/integration/test_publisher.py",
    ),
    Guard(
        "4: nothing is compared while the broker is blocked by an alarm",
        "backend/maintenance/republish.py",
        "        return missing if missing and self._publisher.takes_messages() else Counter()",
        "        return missing",
        "tests/integration/test_publisher.py",
    ),
    Guard(
        "4: a queue that refuses messages holds up no other",
        "backend/relay/publisher.py",
        "            self.refused[queue] = self.refused.get(queue, 0) + len(ids)",
        "            raise TimeoutError(queue, ids)",
        "tests/acceptance/test_broker_refuses.py::test_a_queue_that_refuses_messages_holds_up_no"
        "_other_queue",
    ),
    Guard(
        "4: each queue is compared with its own tasks, per-queue",
        "backend/maintenance/republish.py",
        "        missing = expected - Counter(waiting)",
        "        hidden = sum(waiting.values()) >= sum(expected.values())\n"
        "        missing = Counter() if hidden else expected - Counter(waiting)",
        "tests/acceptance/test_broker_refuses.py::test_messages_of_others_in_one_queue_hide_no_loss"
        "_of_another[rabbitmq_server]",
    ),
    Guard(
        "4: what newer tasks have overtaken is published again, and no backlog",
        "backend/db/outbox.py",
        "                AND started_at > created_at AND created_at <= now()\n",
        "                AND created_at <= now()\n",
        "tests/integration/test_outbox.py::test_a_task_of_another_program_does_not_show_that_others"
        "_were_overtaken",
    ),
    Guard(
        "8: what the broker blocks is not taken for lost",
        "backend/relay/publisher.py",
        "PROBES = 2\n",
        "PROBES = 1\n",
        "tests/integration/test_publisher.py",
    ),
    Guard(
        "2: a Redis that has gone ends no worker",
        "backend/worker/parent/redis_channel.py",
        "    QoS = Unacknowledged\n\n",
        "",
        "tests/integration/test_redis_channel.py",
    ),
    Guard(
        "queues are classic in every vhost",
        "backend/broker/queues.py",
        'arguments = {"x-max-priority": 9, **CLASSIC}',
        'arguments = {"x-max-priority": 9}',
        "tests/acceptance/test_queues.py",
    ),
    Guard(
        "queues of replies are classic in every vhost",
        "backend/api/replies.py",
        "                queue_arguments=CLASSIC,\n",
        "",
        "tests/acceptance/test_queues.py",
    ),
    Guard(
        "the lock of migrations is tried, not waited for",
        "backend/db/migrate.py",
        "SELECT pg_try_advisory_xact_lock({_LOCK})",
        "SELECT pg_advisory_xact_lock({_LOCK}) IS NOT NULL",
        "tests/integration/test_migrate_index.py::test_while_one_process_builds_an_index_concurrently"
        "_no_other_waits_inside_a_statement",
    ),
    Guard(
        "what a killed migration left running is ended",
        "backend/db/migrate.py",
        "        leases.break_connections(lock, _NAME)\n",
        "",
        "tests/integration/test_migrate_index.py::test_a_migration_outlasts_the_limits_and_is"
        "_repeated_after_it_was_killed",
    ),
    Guard(
        "a migration has no time limit",
        "backend/db/migrate.py",
        "SET LOCAL statement_timeout = 0; ",
        "",
        "tests/integration/test_migrate_index.py::test_migrations_work_through_a_pooler_whatever_the"
        "_roles_limits_are",
    ),
    Guard(
        "the lock of migrations outlasts the limits",
        "backend/db/migrate.py",
        "SET LOCAL idle_in_transaction_session_timeout = 0;",
        "",
        "tests/integration/test_migrate_index.py::test_a_migration_outlasts_the_limits_and_is"
        "_repeated_after_it_was_killed",
    ),
    Guard(
        "a pooler may refuse settings",
        "backend/db/connection.py",
        'if "options" not in str(error):',
        'if "options" in str(error):',
        "tests/integration/test_migrate_index.py::test_migrations_work_through_a_pooler_whatever"
        "_the_roles_limits_are",
    ),
    Guard(
        "nothing listens through a pooler",
        "backend/db/listen.py",
        "pooled = behind_pooler(connection)",
        "pooled = False",
        "tests/acceptance/test_pooler.py::test_a_process_says_once_what_a_pooler_keeps_from_it",
    ),
    Guard(
        "a task's own queries are planned with the defaults",
        "backend/db/connection.py",
        '    "timezone": "UTC",\n',
        '    "timezone": "UTC",\n    "enable_bitmapscan": "off",\n',
        "tests/integration/test_session.py",
    ),
    Guard(
        "a burst is read in the order of an index",
        "backend/db/session.py",
        '"SET LOCAL enable_bitmapscan = off;"',
        '"SET LOCAL enable_bitmapscan = on;"',
        "tests/integration/test_session.py",
    ),
    Guard(
        "a setting of a statement ends with it",
        "backend/db/session.py",
        '"SET LOCAL enable_bitmapscan = off;"',
        '"SET enable_bitmapscan = off;"',
        "tests/integration/test_session.py",
    ),
    Guard(
        "a 202 that is not durable is reported",
        "backend/api/readiness.py",
        "        faults = durability_faults(connection)\n",
        "        faults = []\n",
        "tests/integration/test_session.py",
    ),
    Guard(
        "10: a scan starts at its bound",
        "backend/db/bounds.py",
        "coalesce((SELECT {bound} FROM scan_bounds), '-infinity')",
        "timestamptz '-infinity'",
        "tests/integration/test_bounds.py::test_a_scan_reads_little_of_what_has_ended_since_an_old"
        "_snapshot",
    ),
    Guard(
        "10: what is put back lowers the bound",
        "backend/db/outbox.py",
        "    )\n    {LOWER_DUE_FROM}",
        "    )\n    SELECT FROM back",
        "tests/integration/test_bounds.py",
    ),
    Guard(
        "10: the bounds are locked before the rows are looked at",
        "backend/db/bounds.py",
        'LOCK = "SELECT FROM scan_bounds FOR UPDATE; "',
        'LOCK = ""',
        "tests/integration/test_bounds.py",
    ),
    Guard(
        "10: a bound stays a minute behind",
        "backend/db/bounds.py",
        "least(:now, now()) - interval '1 min'\"",
        "least(:now, now()) + interval '1 s'\"",
        "tests/integration/test_bounds.py::test_a_submission_that_commits_late_is_not_missed",
    ),
    Guard(
        "14: a truncate waits for the counts that are being added up",
        "backend/db/migrations/versions/0005_scan_bounds_and_clock.py",
        'forget="TRUNCATE message_counts"',
        'forget="DELETE FROM message_counts"',
        "tests/integration/test_messages.py",
    ),
    Guard(
        "3: where leases cannot be renewed no worker is called dead",
        "backend/maintenance/reconciler.py",
        "        with autocommit_connection() as connection:\n            now, set_back",
        "        retry_abandoned(self._liveness)\n"
        "        with autocommit_connection() as connection:\n            now, set_back",
        "tests/integration/test_reconciler.py",
    ),
    Guard(
        "4: one locked row does not hold up the rest",
        "backend/maintenance/rescue.py",
        '    except StoreLocked:\n        logger.warning(\n            "the worker',
        '    except ZeroDivisionError:\n        logger.warning(\n            "the worker',
        "tests/integration/test_reconciler.py",
    ),
    Guard(
        "3: what waits for other sessions does not hold up lost tasks",
        "backend/maintenance/reconciler.py",
        "        retry_abandoned(self._liveness)\n        calm = ",
        "        if set_back:\n            _follow_clock()\n            return\n"
        "        retry_abandoned(self._liveness)\n        calm = ",
        "tests/integration/test_reconciler.py",
    ),
    Guard(
        "3: the outbox follows the clock when no transaction of before is left",
        "backend/maintenance/reconciler.py",
        "            clock.wait_for_writers(connection)\n",
        "            pass\n",
        "tests/integration/test_reconciler.py",
    ),
    Guard(
        "chaos: a result read in part is read to its end when the event loop starts over",
        "backend/worker/parent/pool.py",
        "        reading = self._unfinished(child, fd)\n",
        "        reading = None\n",
        "tests/unit/test_pool.py",
    ),
    Guard(
        "chaos: the event loop starts over while a child that has ended is in the pool",
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
        "chaos: children that ended are looked at before their jobs are forgotten",
        "backend/worker/parent/pool.py",
        "        self.maintain_pool()\n",
        "",
        "tests/unit/test_pool.py",
    ),
    Guard(
        "chaos: a queue of replies that is deleted before it is read is made again",
        "backend/broker/connection.py",
        "    *_broker.channel_errors,\n",
        "    *_broker.recoverable_channel_errors,\n",
        "tests/integration/test_reply_queues.py",
    ),
    Guard(
        "chaos: a worker that was told to stop ends, whatever its end waits for",
        "backend/worker/parent/lease.py",
        "        time.sleep(EXIT_TIMEOUT)\n        os._exit(self._worker.exitcode or 0)\n",
        "",
        "tests/unit/test_lease.py",
    ),
    Guard(
        "installations: with a prefix installations share no queue",
        "backend/broker/queues.py",
        "    return settings().queue_prefix + name\n",
        "    return name\n",
        "tests/acceptance/test_two_installations.py::test_installations_with_different_prefixes"
        "_share_nothing",
    ),
    Guard(
        "installations: with a prefix installations share no commands",
        "backend/broker/app.py",
        '    "control_exchange": prefixed("celery"),\n',
        "",
        "tests/acceptance/test_two_installations.py::test_installations_with_different_prefixes"
        "_share_nothing",
    ),
    Guard(
        "installations: with a prefix installations share no events",
        "backend/broker/app.py",
        '    "event_exchange": prefixed("celeryev"),\n',
        "",
        "tests/acceptance/test_two_installations.py::test_installations_with_different_prefixes"
        "_share_nothing",
    ),
    Guard(
        "installations: a message that runs alone is looked up if it is dropped",
        "backend/worker/attempt/execute.py",
        "    except Duplicate:\n        _note_dropped([attempt])\n",
        "    except Duplicate:\n        pass\n",
        "tests/integration/test_stray_messages.py",
    ),
    Guard(
        "installations: a batch's messages are looked up if they are dropped",
        "backend/worker/attempt/execute.py",
        "    if len(outcomes) < len(attempts):\n        _note_dropped(",
        "    if False:\n        _note_dropped(",
        "tests/integration/test_stray_messages.py",
    ),
    Guard(
        "installations: dropped messages of known tasks are no trouble",
        "backend/worker/stray_messages.py",
        "                    return\n            with transaction",
        "                    pass\n            with transaction",
        "tests/integration/test_stray_messages.py",
    ),
    Guard(
        "installations: while trouble lasts no further messages are looked up",
        "backend/worker/stray_messages.py",
        "        if time.monotonic() < _pause_until:\n            return\n",
        "",
        "tests/integration/test_stray_messages.py",
    ),
    Guard(
        "installations: of several processes that notice trouble one warns",
        "backend/db/leases.py",
        "    WHERE name = :name FOR UPDATE\n",
        "    WHERE name = :name\n",
        "tests/integration/test_stray_messages.py",
    ),
    Guard(
        "10: statements about some tasks look them up",
        "backend/db/ledger.py",
        '_UNFINISHED = f"tasks.state NOT IN {one_of(ENDED)}"',
        "_UNFINISHED = \"tasks.state IN ('PENDING', 'STARTED', 'RETRY')\"",
        "tests/integration/test_plans.py",
    ),
    Guard(
        "4: a stream keeps the ids of what may be stored",
        "backend/api/routes/batch_lines.py",
        '        answer.update(_fault("UNKNOWN", MAY_BE_STORED))\n        return\n',
        "        pass\n",
        "tests/acceptance/test_submissions.py::test_a_stream_keeps_the_ids_of_what_may_have_been"
        "_stored",
    ),
    Guard(
        "2: a claim that was cut off in its commit counts",
        "backend/worker/attempt/attempt.py",
        "                if self._claim_transaction_id and committed(connection, "
        "self._claim_transaction_id):\n                    return\n",
        "",
        "tests/integration/test_reconciler.py",
    ),
    Guard(
        "3: what would end a task's transaction is refused",
        "backend/db/transaction_policy.py",
        "        if self.active:\n            self._refuse(\n",
        "        if False:\n            self._refuse(\n",
        "tests/integration/test_task_session.py",
    ),
    Guard(
        "3: SQL is read before it is executed",
        "backend/db/transaction_policy.py",
        "        self._check(query)\n        super().execute(query, vars)\n",
        "        super().execute(query, vars)\n",
        "tests/integration/test_task_session.py",
    ),
    Guard(
        "3: what was refused fails the task, though it swallows the error",
        "backend/db/transaction_policy.py",
        "        if self.refused is not None:\n            raise self.refused\n",
        "",
        "tests/integration/test_task_session.py",
    ),
    Guard(
        "3: a task that goes on after a rollback fails",
        "backend/db/transaction_policy.py",
        "            self.policy.rolled_back = True\n",
        "            pass\n",
        "tests/integration/test_task_session.py",
    ),
    Guard(
        "3: a task that goes on after a failed statement fails",
        "backend/db/transaction_policy.py",
        "self.rolled_back or status == extensions.TRANSACTION_STATUS_INERROR",
        "self.rolled_back",
        "tests/integration/test_task_session.py",
    ),
    Guard(
        "3: a refused transaction's connection is closed",
        "backend/db/transaction_policy.py",
        "        self.discard_connection = True\n        raise",
        "        raise",
        "tests/integration/test_task_session.py",
    ),
    Guard(
        "3: the outcome belongs to the transaction of the writes",
        "backend/db/ledger.py",
        "now() = coalesce(CAST(:began AS timestamptz), now())",
        "CAST(:began AS timestamptz) IS NOT DISTINCT FROM :began",
        "tests/integration/test_task_session.py",
    ),
    Guard(
        "3: settings of one task do not reach the next",
        "backend/db/ledger.py",
        "    RESET ROLE; RESET ALL;\n",
        "",
        "tests/integration/test_task_settings.py",
    ),
    Guard(
        "3: what outlasts a transaction goes with its connection",
        "backend/db/session.py",
        "    if policy.discard_connection:\n",
        "    if False:\n",
        "tests/integration/test_task_settings.py",
    ),
    Guard(
        "3: objects of one task are written before the next begins",
        "backend/worker/attempt/session.py",
        "            self.flush()\n",
        "",
        "tests/integration/test_task_session.py",
    ),
    Guard(
        "3: waiting tasks without an outbox row are found",
        "backend/maintenance/reconciler.py",
        "        self._repair()\n",
        "",
        "tests/integration/test_repairs.py",
    ),
    Guard(
        "9: numbers reach the task as they were written",
        "backend/api/routes/batch_items.py",
        "    if not _FRACTION.search(text):\n",
        "    if True:\n",
        "tests/integration/test_round_trip.py",
    ),
    Guard(
        "9: the worker reads the arguments as the API does",
        "backend/worker/attempt/call.py",
        "spec.arguments.model_validate_json(arguments)",
        "spec.arguments.model_validate(__import__('json').loads(arguments))",
        "tests/integration/test_round_trip.py",
    ),
    Guard(
        "an unknown query parameter is refused",
        "backend/api/route.py",
        "        if name not in known\n    ]\n",
        "        if False\n    ]\n",
        "tests/unit/test_route.py",
    ),
    Guard(
        "a query parameter that is given twice is refused",
        "backend/api/route.py",
        "    if len(texts) < len(given):\n",
        "    if False:\n",
        "tests/unit/test_route.py",
    ),
    Guard(
        "a body where none is taken is refused",
        "backend/api/route.py",
        "                await refuse_body(request, refusal)\n",
        "                pass\n",
        "tests/unit/test_route.py",
    ),
    Guard(
        "a declaration that a route would ignore is refused",
        "backend/api/route.py",
        "    if found:\n        raise TypeError(",
        "    if False:\n        raise TypeError(",
        "tests/unit/test_route.py",
    ),
    Guard(
        "a dependency is called, and before the body is read",
        "backend/api/route.py",
        "value = await dependency._value(request, query, done)",
        "value = None",
        "tests/unit/test_route.py",
    ),
    Guard(
        "a literal path wins over one with parameters",
        "backend/api/route_table.py",
        "if (route := self._literal.get((method, path))) is not None:",
        "if (route := self._literal.get((method, path))) and False:",
        "tests/unit/test_route_table.py",
    ),
    Guard(
        "no route bypasses the table of routes",
        "backend/api/app.py",
        "    app.router.routes.insert(0, RouteTable(app.router.routes))\n",
        "    app.router.routes.append(RouteTable(app.router.routes))\n",
        "tests/unit/test_route_table.py",
    ),
    Guard(
        "a value has the names that the OpenAPI document shows",
        "backend/worker/attempt/call.py",
        "model_dump_json(by_alias=True)",
        "model_dump_json()",
        "tests/unit/test_openapi.py",
    ),
    Guard(
        "a body has the limits that its route declares",
        "backend/api/route.py",
        "body.field_info.rebuild_annotation()",
        "body.field_info.annotation",
        "tests/unit/test_route.py",
    ),
    Guard(
        "9: NaN in a body is no JSON",
        "backend/api/body.py",
        "    refuse_constants(text)\n    return value, text\n",
        "    return value, text\n",
        "tests/integration/test_round_trip.py",
    ),
    Guard(
        "9: an infinite number in a value is no null",
        "backend/worker/attempt/call.py",
        '    if "null" in text and',
        "    if False and",
        "tests/integration/test_round_trip.py",
    ),
    Guard(
        "9: arguments that change with time are refused at import",
        "backend/task.py",
        "        _check_model(name, arguments)\n",
        "",
        "tests/unit/test_registry.py",
    ),
    Guard(
        "3: an attempt that no child could be sent has failed",
        "backend/worker/parent/jobs.py",
        "            self._single.end_with(error)\n",
        "",
        "tests/unit/test_jobs.py",
    ),
    Guard(
        "2: the lease holds a single attempt of the short queue",
        "backend/worker/parent/jobs.py",
        "            request.in_batch = self._single is None\n",
        "",
        "tests/unit/test_jobs.py",
    ),
    Guard(
        "2: a task that is not short shares no transaction",
        "backend/worker/parent/short.py",
        "            if registered()[request.delivery.name].one_commit:\n",
        "            if True:\n",
        "tests/unit/test_short_tasks.py",
    ),
    Guard(
        "3: no error of our own reaches the parent process",
        "backend/worker/attempt/execute.py",
        "        return Report()\n",
        "        raise\n",
        "tests/unit/test_execute.py",
    ),
    Guard(
        "an external task gets Celery's reply in a batch too",
        "backend/worker/parent/results.py",
        "            if delivery.external or len(ended) == 1:\n",
        "            if len(ended) == 1:\n",
        "tests/unit/test_results.py",
    ),
    Guard(
        "3: whatever a task raises ends its attempt",
        "backend/worker/attempt/execute.py",
        "    except BaseException as error:\n        if terminate_handler_fired():\n"
        "            raise  # this",
        "    except Exception as error:\n        if terminate_handler_fired():\n"
        "            raise  # this",
        "tests/acceptance/test_task_errors.py",
    ),
    Guard(
        "3: whatever a short task raises is its own error",
        "backend/worker/attempt/execute.py",
        "    except BaseException as error:\n        if terminate_handler_fired():\n"
        "            raise  # SIGTERM, as",
        "    except ValueError as error:\n        if terminate_handler_fired():\n"
        "            raise  # SIGTERM, as",
        "tests/integration/test_task_session.py",
    ),
    Guard(
        "9: what a pool process has started ends with it",
        "backend/worker/parent/pool.py",
        "            subprocesses.kill_with_subprocesses(proc.pid)\n",
        "",
        "tests/acceptance/test_subprocesses.py",
    ),
    Guard(
        "9: what a killed worker's tasks have started ends",
        "backend/cli.py",
        "    subprocesses.start_cleaner()  # before Celery starts its threads\n",
        "",
        "tests/acceptance/test_subprocesses.py",
    ),
    Guard(
        "a proxy that is not trusted is not believed",
        "backend/api/forwarded.py",
        " and (peer and peer[0]) in self._inner.trusted_hosts",
        "",
        "tests/unit/test_forwarded.py",
    ),
    Guard(
        "uvicorn believes no proxy of its own accord",
        "backend/cli.py",
        "        proxy_headers=False,",
        "",
        "tests/acceptance/test_behind_nginx.py::"
        "test_of_anybody_else_no_forwarding_header_is_believed",
    ),
    Guard(
        "a path prefix is no path of the API",
        "backend/settings.py",
        '    if prefix and prefix.split("/")[1] in OWN_PATHS:\n',
        "    if False:\n",
        "tests/unit/test_settings.py",
    ),
    Guard(
        "Flower's password has no comma",
        "backend/settings.py",
        r'pattern=r"^[ -+\--9;-~]+:[ -+\--~]+$"',
        r'pattern=r"^[ -9;-~]+:[ -~]+$"',
        "tests/unit/test_settings.py",
    ),
    Guard(
        "Flower reads no variable that a setting stands for",
        "backend/cli.py",
        "        os.environ.pop(name, None)\n",
        "        pass\n",
        "tests/acceptance/test_addresses.py",
    ),
    Guard(
        "own addresses are not asked through a proxy",
        "backend/local/announce.py",
        "build_opener(urllib.request.ProxyHandler({}))",
        "build_opener()",
        "tests/acceptance/test_addresses.py",
    ),
    Guard(
        "the health check asks through no proxy",
        "deploy/healthy.py",
        "build_opener(urllib.request.ProxyHandler({}))",
        "build_opener()",
        "tests/unit/test_healthy.py",
    ),
    Guard(
        "after kill -9 of everything PostgreSQL starts beside zombies",
        "backend/local/programs.py",
        '        leftovers.forget_ended_postgres(self.folder / "postgres")\n',
        "",
        "tests/acceptance/test_killed_stack.py",
    ),
    Guard(
        "after kill -9 of PostgreSQL its other processes end",
        "backend/local/leftovers.py",
        "    _kill(_processes(ours, programs))\n",
        "",
        "tests/acceptance/test_killed_stack.py",
    ),
    Guard(
        "options that a pooler drops are an error",
        "backend/db/connection.py",
        "        if needed and not mark:\n            raise OptionsDropped\n",
        "",
        "tests/acceptance/test_databases.py::test_options_that_a_pooler_drops_are_an_error_even_if"
        "_the_role_has_all_limits",
    ),
    Guard(
        "options that a pooler drops are an error for later connections too",
        "backend/db/connection.py",
        "    if not (first or needed):\n",
        "    if not first:\n",
        "tests/acceptance/test_databases.py::test_options_that_a_pooler_drops_are_an_error_for"
        "_later_connections_too",
    ),
    Guard(
        "a sign of a password that would lead to another host is refused",
        "backend/urls.py",
        "        raise InvalidSetting(_ENCODE)\n",
        "        pass\n",
        "tests/unit/test_urls.py",
    ),
    Guard(
        "TLS of amqps:// checks the host's name",
        "backend/broker/app.py",
        ', "server_hostname": None}',
        "}",
        "tests/acceptance/test_broker_addresses.py::test_a_certificate_of_another_host_is_refused",
    ),
    Guard(
        "TLS of rediss:// verifies by default",
        "backend/urls.py",
        """        return f"{url}{'&' if parts.query else '?'}ssl_cert_reqs=required"\n""",
        "        return url\n",
        "tests/acceptance/test_broker_addresses.py::test_a_certificate_is_verified_unless_the_address"
        "_says_otherwise",
    ),
    Guard(
        "a traceback in a log has a bounded length",
        "backend/telemetry/logs.py",
        "    if len(text) <= length:\n",
        "    if True:\n",
        "tests/unit/test_telemetry.py",
    ),
    Guard(
        "a large body that is refused is read to its end, so that the client reads the answer",
        "backend/api/protocol.py",
        "            self.cycle.keep_alive = self._closes = True\n",
        "            pass\n",
        "tests/unit/test_protocol.py::test_an_answer_that_comes_before_the_body_reaches_a_client"
        "_that_sends_all_first",
    ),
    Guard(
        "a body that a client may leave out is not taken for its next request",
        "backend/api/protocol.py",
        "            self.cycle.keep_alive = False\n        elif",
        "            pass\n        elif",
        "tests/unit/test_protocol.py::test_an_answer_before_a_body_that_the_client_may_leave_out"
        "_closes_the_connection",
    ),
    Guard(
        "what cannot end when the API stops is answered 503",
        "backend/api/limits.py",
        "            await _end(scope, receive, send)\n",
        "            raise\n",
        "tests/acceptance/test_clients.py::test_what_cannot_end_when_the_api_stops_is_answered_503"
        "_without_a_traceback",
    ),
    Guard(
        "9: a fork of a task's process ends and reports nothing",
        "backend/worker/attempt/call.py",
        "        if os.getpid() != pid:\n            _end_fork()\n",
        "        pass\n",
        "tests/acceptance/test_processes_in_tasks.py::test_a_fork_of_a_tasks_process_reports_nothing"
        "_and_leaves_its_connection_alone",
    ),
    Guard(
        "9: a fork of a task's process leaves its connection alone",
        "backend/db/transaction_policy.py",
        "        return os.getpid() != self._pid\n",
        "        return False\n",
        "tests/acceptance/test_processes_in_tasks.py::test_a_fork_of_a_tasks_process_reports_nothing"
        "_and_leaves_its_connection_alone",
    ),
    Guard(
        "a task may use multiprocessing",
        "backend/worker/parent/subprocesses.py",
        "    process._current_process = _MAIN_PROCESS",
        "    process._not_current = _MAIN_PROCESS",
        "tests/acceptance/test_processes_in_tasks.py::test_a_task_uses_multiprocessing_as_any_program"
        "_does",
    ),
    Guard(
        "a task that breaks its connection each time is not tried without end",
        "backend/worker/attempt/execute.py",
        "        if attempt.losses < MAX_LOSSES:\n",
        "        if True:\n",
        "tests/integration/test_task_ends.py",
    ),
    Guard(
        "a task that changes its own row is not tried without end",
        "backend/worker/attempt/execute.py",
        "        error = TaskError(OWN_ROW)\n",
        "        return None\n",
        "tests/integration/test_task_ends.py",
    ),
    Guard(
        "a session that a task has kept is closed",
        "backend/worker/attempt/session.py",
        ", close_resets_only=False",
        "",
        "tests/integration/test_task_session.py::test_a_session_that_a_task_has_kept_is_of_no_use"
        "_after_its_end",
    ),
    Guard(
        "the limits of a task's transaction are its time limit",
        "backend/worker/attempt/session.py",
        "        if self._time_limit is not None:\n",
        "        if self._time_limit is not None and self.began is not None:\n",
        "tests/integration/test_task_settings.py::test_a_task_may_take_its_time_in_its_transaction",
    ),
    Guard(
        "a child's end is noticed soon",
        "backend/worker/parent/pool.py",
        "        if proc in self._pool:\n",
        "        if proc is None:\n",
        "tests/unit/test_pool.py",
    ),
    Guard(
        "a child that is about to leave gets no job",
        "backend/worker/parent/pool.py",
        "            if child.jobs_done >= self._maxtasksperchild:\n                return\n",
        "",
        "tests/unit/test_pool.py",
    ),
    Guard(
        "a claim that a failover has lost is no failure",
        "backend/worker/attempt/attempt.py",
        "waiting=self._claim_transaction_id is None",
        "waiting=True",
        "tests/integration/test_task_ends.py",
    ),
    Guard(
        "a fork that fails costs no other pool process",
        "backend/worker/parent/pool.py",
        "[each for each in self._pool if each not in before]",
        "self._pool[-1:]",
        "tests/unit/test_pool.py",
    ),
    Guard(
        "a process that does not end keeps the next server from starting",
        "backend/local/leftovers.py",
        "    if left := _signal(processes, signal.SIGKILL, KILL_SECONDS):\n",
        "    if (left := _signal(processes, signal.SIGKILL, KILL_SECONDS)) and not left:\n",
        "tests/unit/test_leftovers.py",
    ),
]


def holds(guard: Guard) -> bool:
    """Return whether the guard's tests fail without it. Raises SystemExit if it is not there."""
    with tempfile.TemporaryDirectory(prefix="guards-") as name:
        copy = Path(name)
        for part in COPIED:
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy)
        file = copy / guard.file
        text = file.read_text()
        if text.count(guard.code) != 1:
            raise SystemExit(f"{guard.file} has this not once: {guard.code}")
        file.write_text(text.replace(guard.code, guard.without))
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-n0", guard.tests],
            cwd=copy,
            # Celery refuses pickle to root of its own accord; our guard has to do without that.
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "PYTHONPATH": name,
                "HOME": name,
                "C_FORCE_ROOT": "1",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        last = (done.stdout.strip().splitlines() or [done.stderr.strip()[-200:]])[-1]
        # A test that could not be set up counts as an error, not as one that failed.
        held = done.returncode == 1 and "failed" in last
        print(f"{'held' if held else 'NOT HELD':9} {guard.holds}: {last}", flush=True)
        return held


def main() -> None:
    """Try every guard, or those whose title has one of the arguments; exit 1 if one did not hold.

    Exits with a message if an argument fits no title.
    """
    for words in sys.argv[1:]:
        if not any(words in guard.holds for guard in GUARDS):
            sys.exit(f"No guard's title has {words!r}.")
    chosen = [g for g in GUARDS if not sys.argv[1:] or any(w in g.holds for w in sys.argv[1:])]
    results = [holds(guard) for guard in chosen]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
