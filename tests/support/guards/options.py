"""Guards of options, retries, history and changes of many tasks."""

from __future__ import annotations

from .guard import Guard

OPTIONS = "tests/integration/test_options.py::"
HISTORY = "tests/integration/test_history.py::"

GUARDS = [
    Guard(
        "no attempt of an expired task starts",
        "backend/db/fragments.py",
        "                AND (expires_at IS NULL OR :in_time OR expires_at > now())\n",
        "",
        OPTIONS + "test_an_expired_task_does_not_start_and_is_revoked",
    ),
    Guard(
        "urgent tasks are published first",
        "backend/db/outbox.py",
        "SELECT * FROM high UNION ALL SELECT * FROM usual",
        "SELECT * FROM usual UNION ALL SELECT * FROM high WHERE false",
        OPTIONS + "test_urgent_tasks_are_taken_first_and_others_by_age",
    ),
    Guard(
        "an urgent task is taken before older ones with many bytes",
        "backend/db/outbox.py",
        "full = len(entries) == limit or sum(len(entry.args) for entry in entries) > SURELY_LESS",
        "full = len(entries) == limit",
        OPTIONS + "test_an_urgent_task_is_taken_before_older_ones_with_many_bytes",
    ),
    Guard(
        "a message has tasks of one priority",
        "backend/broker/pack.py",
        "key = queue, entry.priority",
        "key = queue, 0",
        OPTIONS + "test_a_message_has_tasks_of_one_priority",
    ),
    Guard(
        "a task with limits of its own shares no message",
        "backend/broker/pack.py",
        "task.max_running or own_limits:",
        "task.max_running:",
        OPTIONS + "test_a_task_with_limits_of_its_own_has_its_own_message",
    ),
    Guard(
        "later attempts keep the priority",
        "backend/db/ledger.py",
        "SELECT id, attempt, priority, now()",
        "SELECT id, attempt, NULL, now()",
        OPTIONS + "test_the_next_attempt_keeps_the_priority",
    ),
    Guard(
        "a retried task does not expire",
        "backend/db/ledger.py",
        "CASE WHEN :requested THEN NULL ELSE expires_at END",
        "CASE WHEN :requested THEN expires_at ELSE expires_at END",
        OPTIONS + "test_a_retried_task_no_longer_expires_and_keeps_its_other_options",
    ),
    Guard(
        "lost messages of each priority are found",
        "backend/db/lost_messages.py",
        'CROSS JOIN LATERAL ({_oldest("priority = level")}) each',
        'CROSS JOIN LATERAL ({_oldest("priority = level AND false")}) each',
        OPTIONS + "test_lost_messages_of_each_priority_are_published_again",
    ),
    Guard(
        "messages that may be lost are published again together",
        "backend/db/lost_messages.py",
        "AND now() - interval '10 s' > (",
        "AND now() > (",
        OPTIONS + "test_messages_that_may_be_lost_are_published_again_together",
    ),
    Guard(
        "the purge deletes the tags of its tasks",
        "backend/db/purge.py",
        "WHERE task_tags.tag = each.tag AND",
        "WHERE false AND",
        OPTIONS + "test_a_purged_task_leaves_no_tags",
    ),
    Guard(
        "a repeated request must have the same options",
        "backend/api/submissions.py",
        "            if task.options:\n                digest",
        "            if False:\n                digest",
        "tests/acceptance/test_submit_options.py::test_a_repeated_request_must_have_the_same"
        "_options",
    ),
    Guard(
        "an option cannot exceed what the task declares",
        "backend/api/options.py",
        "        if given is not None and given > most\n",
        "        if False\n",
        "tests/acceptance/test_submit_options.py::test_an_option_is_refused_alike_on_every_route",
    ),
    Guard(
        "a task is tried again only after the errors that it declares",
        "backend/worker/attempt/outcomes.py",
        "(*attempt.spec.retry_for, *_ALWAYS_RETRIED)",
        "BaseException",
        "tests/integration/test_retries.py",
    ),
    Guard(
        "a task is not put off without end",
        "backend/worker/attempt/outcomes.py",
        "attempt.number >= PUT_OFF_END",
        "attempt.number > PUT_OFF_END",
        "tests/integration/test_retries.py::test_a_task_is_not_put_off_without_end",
    ),
    Guard(
        "an attempt that has not started has no row",
        "backend/db/attempts.py",
        "            AND (has_started OR NOT :free OR CAST(:error_type AS text) IS NOT NULL)\n",
        "",
        HISTORY + "test_an_attempt_that_never_started_has_no_row",
    ),
    Guard(
        "a retried task keeps the row of the attempt before",
        "backend/db/control.py",
        "        note_last(connection, attempts)\n",
        "",
        HISTORY + "test_a_retried_task_keeps_the_row_of_the_attempt_before",
    ),
    Guard(
        "the history has each task once, whatever its id is",
        "backend/db/history.py",
        'condition=f"NOT {IS_OTHER_ID} AND',
        'condition="',
        HISTORY + "test_each_task_is_on_one_page_newest_first_whatever_its_id_is",
    ),
    Guard(
        "tags of deleted tasks do not end the history",
        "backend/db/history.py",
        "LEFT JOIN LATERAL (SELECT * FROM tasks WHERE tasks.id = task_id LIMIT 1) task ON true",
        "CROSS JOIN LATERAL (SELECT * FROM tasks WHERE tasks.id = task_id LIMIT 1) task",
        HISTORY + "test_a_task_is_found_by_its_tag_behind_any_number_of_tags_of_deleted_tasks",
    ),
    Guard(
        "a page ends where a part of the history was not read",
        "backend/db/history.py",
        "if horizon is None or _position(row) >= horizon",
        "if True",
        HISTORY + "test_older_tasks_wait_until_all_newer_ones_were_looked_at",
    ),
    Guard(
        "a filter changes only what the request is for",
        "backend/api/bulk.py",
        "wanted.select(before, action.states)",
        "wanted.select(before)",
        "tests/acceptance/test_history.py::test_tasks_that_a_filter_finds_are_cancelled_and_retried"
        "_together",
    ),
    Guard(
        "a path that is literal has no other meaning",
        "backend/api/route_table.py",
        "() if path in self._literal_paths else",
        "() if False else",
        "tests/unit/test_route_table.py",
    ),
    Guard(
        "an attempt that has begun in time is started although it has expired since",
        "backend/worker/attempt/attempt.py",
        "in_time=begun",
        "in_time=False",
        OPTIONS + "test_an_attempt_that_has_begun_in_time_is_started_after_its_expiry",
    ),
    Guard(
        "a message of low priority may wait while urgent ones are taken",
        "backend/maintenance/republish.py",
        "if priority >= taken else OVERTAKEN_SECONDS",
        "if True else OVERTAKEN_SECONDS",
        OPTIONS + "test_a_message_of_low_priority_is_not_lost_while_workers_take_urgent_ones",
    ),
    Guard(
        "a failed attempt that was never started has a row",
        "backend/db/ledger.py",
        "{row}state <> '{REVOKED}' THEN now()",
        "{row}state = 'SUCCESS' THEN now()",
        HISTORY + "test_a_failed_attempt_that_was_never_started_has_a_row",
    ),
    Guard(
        "a retried task has no row of an attempt that never started",
        "backend/db/attempts.py",
        ' AND {_has_started("tasks")}',
        "",
        HISTORY + "test_a_retried_task_has_no_row_of_an_attempt_that_never_started",
    ),
    Guard(
        "an empty filter changes nothing",
        "backend/api/history.py",
        "list[Text], Field(min_length=1, max_length=MAX_TAGS",
        "list[Text], Field(max_length=MAX_TAGS",
        "tests/acceptance/test_history.py::test_a_wrong_request_changes_nothing",
    ),
]
