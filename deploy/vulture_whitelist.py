"""Names that vulture would report as dead code, although a framework or a test uses them.

A name on its own line counts as a use of it. Each group says who uses the names. Remove a name when
its code is deleted.
"""

# ruff: noqa: INP001, B018, F821, SLF001 - vulture reads it, and nothing runs it

# Python, the standard library and servers call these by name.
_.__getattr__  # of a module, for `celery -A backend`
_.do_GET  # http.server
_.log_message
_.utctimetuple  # calendar, for amqp's timestamps
_.extraction_filter  # tarfile
_.extra_groups  # a keyword of subprocess.Popen
_.create_app_with_relay  # uvicorn imports it by its name

# uvicorn and asyncio: methods of a protocol, and attributes that a request or the server reads.
_.eof_received
_.data_received
_.disconnected
_.should_exit

# FastAPI and pydantic: methods that a subclass overrides, settings of models, fields of answers.
_.get_route_handler
_.model_config
_._check_start
_.matched
_.workflow_id
_.docs
_.redoc
_.in_days
_.secret
_.squares
_.user_id  # fields of a model in a test
_.hidden

# Celery, kombu, billiard and Flower: their hooks, and attributes that they read.
_.process_task
_.backend_cls
_.node_cls
_.dispatcher_cls
_.requires
_.task_queues
_.task_default_queue
_.worker_send_task_events
_.Threads  # imported by its name in backend/broker/app.py
_.uses_semaphore
_.signal_safe
_.on_start
_.on_apply
_.on_stop
_.RpcResults  # imported by the name that backend/broker/app.py makes
_.RedisResults
_.get_state
_.reject
_.requeue
_.on_connection_error_before_connected
_.on_unknown_task
_.on_unknown_message
_.on_invalid_task
_.on_iteration
_.on_task_request
_.leftmost
_._time_accepted
_.on_state_change
_.buffer_limit
_.buffer_while_offline
_.time_start
_.worker_pid
_._apply_result
_._process_task
_._current_process
_.no_ack_consumers  # from here on: attributes of the tests' fakes, because Celery reads them
_.basic_ack
_.basic_reject
_.terminate_job

# SQLAlchemy: tables and columns that SQL names as text, a setting of models, an attribute of an
# error's context.
_.Outbox
_.MessageCount
_.TaskTag
_.ScanBounds
_.Repairs
_.Purge
_.started_at
_.finished_at
_.due_at
_.published_at
_.expires_at
_.stray_at
_.stray_queue
_.only_row
_.unfinished_from
_.started_from
_.due_from
_.published_from
_.type_annotation_map
_.is_disconnect
_.join_transaction_mode  # of a session

# Alembic reads these in every revision.
_.down_revision
_.branch_labels
_.depends_on
_.downgrade

# Named only in a string, for the type checker.
_._Notified

# pytest, its plugins and mocks: hooks, an option, a fixture that an argument asks for.
_.pytest_addoption
_.pytest_cmdline_main
_.pytest_generate_tests
_.pytest_runtest_setup
_.pytest_terminal_summary
_.numprocesses
_.configured
_.side_effect

# Members of an enumeration of which only the values are sent.
_.RED
_.BLUE

# tests/chaos/faults.py calls a fault by the name that tests/chaos/schedule.py gives it.
_._kill_api
_._kill_relay
_._stop_worker
_._kill_child
_._freeze_relay
_._restart_store
_._crash_store
_._freeze_store
_._end_store_connections
_._step_clock
_._stop_broker
_._wipe_broker
_._freeze_broker
_._cut_connections
_._refuse_connections
_._raise_alarm
_._delete_queues
_._close_connections
_._send_malformed
_._send_duplicates
