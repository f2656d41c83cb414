"""Guards of the API: routes, bodies, submissions, readiness."""

from __future__ import annotations

from .guard import Guard

GUARDS = [
    Guard(
        "a broker that does not answer delays no stop of the API",
        "backend/api/replies.py",
        "        self._listener.close(CLOSE_SECONDS)\n",
        "        self._listener.close()\n",
        "tests/unit/test_closing.py",
    ),
    Guard(
        "readiness checks that PostgreSQL accepts a write",
        "backend/api/readiness.py",
        "        writable.try_insert(connection, writable.LARGE if large else writable.SMALL)\n",
        "",
        "tests/acceptance/test_read_only.py::test_a_read_only_postgresql_costs_no_attempt_and"
        "_each_write_route_reports_it[by_default]",
    ),
    Guard(
        "a stream returns the ids of stored tasks after any error",
        "backend/api/routes/batch_lines.py",
        "    except Exception as error:  # noqa: BLE001 - the batcher",
        "    except HTTPError as error:  # the batcher",
        "tests/acceptance/test_submissions.py::test_a_stream_returns_the_ids_of_stored_tasks_when"
        "_a_later_part_fails",
    ),
    Guard(
        "a key is valid for only one kind of request",
        "backend/api/submissions.py",
        'hashlib.sha256(f"{self.form}\\0".encode())',
        "hashlib.sha256()",
        "tests/acceptance/test_submission_keys.py::test_a_key_is_valid_only_for_the_kind_of"
        "_request_that_first_used_it",
    ),
    Guard(
        "the keys of a stream's parts differ from any client's key",
        "backend/api/routes/batch_lines.py",
        'f"{key} {number}" if key and number else key',
        'f"{key}/{number}" if key else key',
        "tests/acceptance/test_submission_keys.py::test_the_keys_of_a_streams_parts_differ_from"
        "_any_client_key",
    ),
    Guard(
        "a key stored by the previous version returns its tasks",
        "backend/db/idempotency.py",
        "regexp_matches(answer,",
        "regexp_matches('',",
        "tests/integration/test_submissions.py",
    ),
    Guard(
        "a repeated key is answered while new requests are refused",
        "backend/api/submissions.py",
        "            if key is None or (first",
        "            if True or (first",
        "tests/acceptance/test_backlog.py::test_a_repeated_request_is_answered_while_new_ones_are"
        "_refused",
    ),
    Guard(
        "a repeated request does not use up MAX_WAITING",
        "backend/api/submissions.py",
        "        self._backlog.release(due)\n",
        "",
        "tests/integration/test_submissions.py",
    ),
    Guard(
        "1: a 202 is sent only after the commit",
        "backend/api/submissions.py",
        "first = await batcher.submit(request)",
        "import asyncio; asyncio.ensure_future(batcher.submit(request)); first = None",
        "tests/acceptance/test_submissions.py::test_a_task_is_accepted_after_its_commit",
    ),
    Guard(
        "5: no request waits for the broker",
        "backend/api/inspector.py",
        "question.answered.wait(self.reply_timeout)",
        "question.answered.wait(10 * self.reply_timeout)",
        "tests/acceptance/test_outages.py::test_without_the_broker_tasks_are_accepted_and_listed"
        "_and_run_later",
    ),
    Guard(
        "6: every API process reads states from the ledger",
        "backend/api/services.py",
        "return await self.states.submit(task_id) if is_task_id(task_id) else None",
        "self.seen = getattr(self, 'seen', {})\n"
        "        if task_id not in self.seen:\n"
        "            self.seen[task_id] = await self.states.submit(task_id)\n"
        "        return self.seen[task_id]",
        "tests/acceptance/test_contract_setups.py::test_no_api_replica_returns_a_wrong_or_older"
        "_state",
    ),
    Guard(
        "reply queues are classic in every virtual host",
        "backend/api/replies.py",
        "                queue_arguments=CLASSIC,\n",
        "",
        "tests/acceptance/test_queues.py",
    ),
    Guard(
        "a PostgreSQL whose commits are not durable is reported",
        "backend/api/readiness.py",
        "        faults = durability_faults(connection)\n",
        "        faults = []\n",
        "tests/integration/test_session.py",
    ),
    Guard(
        "4: a stream returns the ids of tasks that may have been stored",
        "backend/api/routes/batch_lines.py",
        '        return answer | _fault("UNKNOWN", MAY_BE_STORED)\n',
        "        pass\n",
        "tests/acceptance/test_submissions.py::test_a_stream_returns_the_ids_of_tasks_that_may"
        "_have_been_stored",
    ),
    Guard(
        "9: numbers reach the task as the client wrote them",
        "backend/api/routes/batch_items.py",
        "    if not FRACTION.search(text):\n",
        "    if True:\n",
        "tests/integration/test_round_trip.py",
    ),
    Guard(
        "an unknown query parameter is refused",
        "backend/api/query.py",
        "        if name not in known:\n",
        "        if False:\n",
        "tests/unit/test_route.py",
    ),
    Guard(
        "a repeated query parameter is refused",
        "backend/api/query.py",
        "elif repeated and sum(",
        "elif False and sum(",
        "tests/unit/test_route.py",
    ),
    Guard(
        "a route without a body refuses one",
        "backend/api/route.py",
        "                await refuse_body(request, refusal)\n",
        "                pass\n",
        "tests/unit/test_route_bodies.py",
    ),
    Guard(
        "a declaration that our route class would ignore is refused",
        "backend/api/route.py",
        "    if found:\n        raise TypeError(",
        "    if False:\n        raise TypeError(",
        "tests/unit/test_route_declarations.py",
    ),
    Guard(
        "a dependency is called before the body is read",
        "backend/api/route.py",
        "value = await dependency._value(request, query, done)",
        "value = None",
        "tests/unit/test_route_declarations.py",
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
        "the limits that a route declares for its body are checked",
        "backend/api/route.py",
        "body.field_info.rebuild_annotation()",
        "body.field_info.annotation",
        "tests/unit/test_route_bodies.py",
    ),
    Guard(
        "9: NaN in a body is refused as invalid JSON",
        "backend/api/body.py",
        "    refuse_constants(text)\n    return value, text\n",
        "    return value, text\n",
        "tests/integration/test_round_trip.py",
    ),
    Guard(
        "forwarded headers of untrusted proxies are ignored",
        "backend/api/forwarded.py",
        " and (peer and peer[0]) in self._inner.trusted_hosts",
        "",
        "tests/unit/test_forwarded.py",
    ),
    Guard(
        "a refused large body is read to its end, so that the client can read the answer",
        "backend/api/protocol.py",
        "            self.cycle.keep_alive = self._closes = True\n",
        "            pass\n",
        "tests/integration/test_protocol.py::test_an_early_answer_reaches_a_client_that_first"
        "_sends_its_whole_body",
    ),
    Guard(
        "after an early answer to Expect: 100-continue the connection is closed",
        "backend/api/protocol.py",
        "            self.cycle.keep_alive = False\n        elif",
        "            pass\n        elif",
        "tests/integration/test_protocol.py::test_an_early_answer_to_expect_100_continue_closes"
        "_the_connection",
    ),
    Guard(
        "requests that cannot finish when the API stops get 503",
        "backend/api/limits.py",
        "            await _end(scope, receive, send)\n",
        "            raise\n",
        "tests/acceptance/test_clients.py::test_requests_that_cannot_finish_when_the_api_stops"
        "_get_503_without_a_traceback",
    ),
]
