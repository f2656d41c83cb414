"""Guards of the relay and of the reconciler's duties."""

from __future__ import annotations

from .guard import Guard

GUARDS = [
    Guard(
        "3: after a pause between checks a worker is observed for a whole lease",
        "backend/maintenance/liveness.py",
        "            self._renewals.clear()",
        "            pass",
        "tests/unit/test_liveness.py",
    ),
    Guard(
        "3: an attempt is abandoned after two more renewals without it",
        "backend/maintenance/liveness.py",
        "RENEWALS = 2",
        "RENEWALS = 1",
        "tests/unit/test_liveness.py",
    ),
    Guard(
        "3: due times of waiting tasks follow a clock that is set back",
        "backend/maintenance/reconciler.py",
        "        if set_back:",
        "        if set_back and not now:",
        "tests/acceptance/test_clock_steps.py::test_a_retry_is_on_time_after_the_clock_was_set"
        "_back",
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
        "4: messages that the broker lost are published again",
        "backend/maintenance/republish.py",
        "                again += lost_messages.republish(connection, queue, times)\n",
        "                again += 0\n",
        "tests/acceptance/test_crashes.py::test_each_accepted_message_is_written_once"
        "[delete_the_queues-1]",
    ),
    Guard(
        "7: no transaction is open while the relay waits for the broker",
        "backend/relay/relay.py",
        "            outbox.mark_published(connection, marks)\n",
        "            publisher.publish(messages)\n"
        "            outbox.mark_published(connection, marks)\n"
        "            return None\n",
        "tests/acceptance/test_effects.py::test_no_transaction_stays_open_while_the_broker_hangs",
    ),
    Guard(
        "4: a relay blocked by an alarm keeps its connection and waits for the confirms",
        "backend/relay/publisher.py",
        "                deadline = now + CONFIRM_SECONDS\n",
        "                if now > deadline:\n                    raise TimeoutError\n",
        "tests/integration/test_publisher.py",
    ),
    Guard(
        "4: queues are not compared while the broker is blocked by an alarm",
        "backend/maintenance/republish.py",
        "        return missing if missing and self._publisher.takes_messages() else Counter()",
        "        return missing",
        "tests/integration/test_publisher.py",
    ),
    Guard(
        "4: a queue that refuses messages does not delay other queues",
        "backend/relay/publisher.py",
        "            self.refused[queue] = self.refused.get(queue, 0) + len(ids)",
        "            raise TimeoutError(queue, ids)",
        "tests/acceptance/test_broker_refuses.py::test_a_queue_that_refuses_messages_does_not"
        "_delay_other_queues",
    ),
    Guard(
        "4: each queue is compared with the tasks of this queue only",
        "backend/maintenance/republish.py",
        "        missing = expected - Counter(waiting)",
        "        every = self._publisher.waiting([*expected, SHORT_TASKS])\n"
        "        hidden = sum(every.values()) >= sum(expected.values())\n"
        "        missing = Counter() if hidden else expected - Counter(waiting)",
        "tests/acceptance/test_broker_refuses.py::test_foreign_messages_in_one_queue_do_not_hide"
        "_losses_in_another[rabbitmq_server]",
    ),
    Guard(
        "8: messages that an alarm holds back are not treated as lost",
        "backend/relay/publisher.py",
        "PROBES = 2\n",
        "PROBES = 1\n",
        "tests/integration/test_publisher.py",
    ),
    Guard(
        "3: no worker is declared dead while leases cannot be renewed",
        "backend/maintenance/reconciler.py",
        "        with autocommit_connection() as connection:\n            now, set_back",
        "        retry_abandoned(self._liveness)\n"
        "        with autocommit_connection() as connection:\n            now, set_back",
        "tests/integration/test_reconciler.py",
    ),
    Guard(
        "4: one locked row does not delay the rescue of other tasks",
        "backend/maintenance/rescue.py",
        '    except StoreLocked:\n        logger.warning(\n            "the worker',
        '    except ZeroDivisionError:\n        logger.warning(\n            "the worker',
        "tests/integration/test_reconciler.py",
    ),
    Guard(
        "3: waiting for other sessions does not delay the rescue of lost tasks",
        "backend/maintenance/reconciler.py",
        "        retry_abandoned(self._liveness)\n        calm = ",
        "        if set_back:\n            _follow_clock()\n            return\n"
        "        retry_abandoned(self._liveness)\n        calm = ",
        "tests/integration/test_reconciler.py",
    ),
    Guard(
        "3: the outbox follows the clock only after every older transaction has ended",
        "backend/maintenance/reconciler.py",
        "            clock.wait_for_writers(connection)\n",
        "            pass\n",
        "tests/integration/test_reconciler.py",
    ),
    Guard(
        "3: waiting tasks without an outbox row are repaired",
        "backend/maintenance/reconciler.py",
        "        self._repair()\n",
        "",
        "tests/integration/test_repairs.py",
    ),
]
