"""The work-arounds of docs/aiokafka.md, each taken out: name, file, text, replacement, tests. For tests/mutants.py."""

CONSUMER, PRODUCER = "streamkit/transport/kafka/consumer.py", "streamkit/transport/kafka/producer.py"
FETCHING = "streamkit/transport/kafka/fetching.py"
ADMIN, CLIENT = "streamkit/transport/kafka/admin.py", "streamkit/transport/kafka/client.py"
FAILURES, OFFSET_FETCH = "streamkit/transport/kafka/failures.py", "streamkit/transport/kafka/offset_fetch.py"
RECORD_DELETION = "streamkit/transport/kafka/record_deletion.py"
FAIL_STOP = "streamkit/transport/kafka/fail_stop.py"
ACCESS = "streamkit/transport/kafka/access.py"
PUBLISHER = "streamkit/runtime/publisher.py"
OPTION = '"enable_auto_commit": False,'
TESTS = "tests/transport/kafka/test_workarounds.py::test_"
CONSUMER_TESTS = "tests/transport/kafka/test_consumer.py::test_"
PRODUCER_TESTS = "tests/transport/kafka/test_producer.py::test_"
SECURITY_TESTS = "tests/transport/kafka/test_security.py::test_"
PAUSING = """unwanted = set(self._consumer.assignment()) - set(wanted)
            self._consumer.pause(*unwanted)
            self._consumer.resume(*(set(self._consumer.assignment()) - unwanted))
            return await self._consumer.getmany(timeout_ms=int(timeout * 1000), max_records=max_records)
            batches: Batches = await self._consumer.getmany("""

WORKAROUNDS = [
    (
        "R1: an error of the group means nothing committed",
        OFFSET_FETCH,
        "_raise_for(response.error_code)",
        "pass",
        f"{TESTS}an_error_of_the_whole_group_is_not_taken_for_nothing_committed "
        f"{TESTS}a_group_that_may_not_be_read_is_refused_and_not_begun_anew",
    ),
    (
        "R1: a coordinator that has moved is asked again and again",
        CONSUMER,
        "                    coordinator.coordinator_dead()",
        "                    pass",
        f"{TESTS}an_error_of_the_whole_group_is_not_taken_for_nothing_committed",
    ),
    (
        "R1, R18: aiokafka chooses the first offset",
        FETCHING,
        '"auto_offset_reset": "none"',
        '"auto_offset_reset": "earliest"',
        f"{TESTS}a_group_that_has_committed_nothing_is_given_no_offset",
    ),
    (
        "R4: an output of any size is sent",
        PUBLISHER,
        "if size > route.limit:",
        "if False:",
        "tests/runtime/test_emitter.py",
    ),
    (
        "R4: a broken producer is used again",
        PUBLISHER,
        "self._producer = self._make_producer()",
        "pass",
        "tests/runtime/test_publisher.py",
    ),
    (
        "R31: a partition without a leader holds up the others",
        PRODUCER,
        "queue_without_waiting(producer, settings.send_timeout)",
        "queue_without_waiting",
        f"{PRODUCER_TESTS}a_sink_partition_without_a_leader_does_not_hold_up_the_outputs_of_the_others",
    ),
    (
        "R4: what waits behind a refused batch is sent",
        FAIL_STOP,
        "if failure is not None and accumulator._exception is None:",
        "if False:",
        f"{PRODUCER_TESTS}nothing_that_waits_behind_a_refused_batch_gets_into_the_log",
    ),
    (
        "R5: offsets of an open transaction are taken",
        OFFSET_FETCH,
        ", True, {})",
        ", False, {})",
        f"{TESTS}an_offset_that_a_transaction_is_about_to_move_is_waited_for",
    ),
    (
        "R5: an unstable offset is an unknown error",
        OFFSET_FETCH,
        "if code == UNSTABLE_OFFSET_COMMIT:",
        "if False:",
        f"{TESTS}an_offset_that_a_transaction_is_about_to_move_is_waited_for",
    ),
    (
        "R10: a commit does not ask whose generation it is",
        CONSUMER,
        "if generation == NO_GENERATION or coordinator.generation != generation:",
        "if False:",
        f"{TESTS}a_commit_of_another_generation_sends_no_request",
    ),
    (
        "R10: the generation is looked at before something is awaited",
        CONSUMER,
        "            await coordinator.ensure_coordinator_known()\n            # R5",
        "            if coordinator.generation == generation:\n"
        "                await coordinator.ensure_coordinator_known()\n"
        "                return await coordinator._do_commit_offsets(None, data)\n            # R5",
        f"{TESTS}a_commit_that_waits_for_its_coordinator_does_not_go_out_in_a_later_generation",
    ),
    (
        "R10: a commit without a generation is an administrator's",
        CONSUMER,
        "if generation == NO_GENERATION or coordinator",
        "if coordinator",
        f"{TESTS}a_member_that_was_thrown_out_commits_nothing",
    ),
    (
        "R5, R10: aiokafka repeats commits",
        CONSUMER,
        "coordinator._do_commit_offsets(None, data)",
        "coordinator.commit_offsets(None, data)",
        f"{TESTS}a_commit_that_fails_is_not_repeated_behind_the_engines_back",
    ),
    (
        "R7: what a listener raises is forgotten",
        CONSUMER,
        "self._consumer._failure = error",
        "pass",
        f"{TESTS}what_a_listener_raises_fails_the_next_poll",
    ),
    (
        "R7: lost partitions are given back",
        CONSUMER,
        "lost = self._consumer.generation == NO_GENERATION",
        "lost = False",
        f"{TESTS}losing_partitions_is_told_from_giving_them_back",
    ),
    (
        "R7: something is revoked before the first assignment",
        CONSUMER,
        "if not self._consumer._heartbeat:",
        "if False:",
        f"{TESTS}losing_partitions_is_told_from_giving_them_back",
    ),
    (
        "R9: aiokafka leaves the group by itself",
        CONSUMER,
        "            max_poll_interval_ms=NEVER_MS,\n",
        "",
        f"{TESTS}a_member_is_never_taken_out_of_the_group_for_want_of_polls",
    ),
    (
        "R11: the group waits as long as a session",
        CONSUMER,
        "            rebalance_timeout_ms=_ms(rebalance_timeout(settings)),\n",
        "",
        f"{TESTS}the_group_waits_for_a_whole_drain",
    ),
    (
        "R12: another assignor",
        CONSUMER,
        "            partition_assignment_strategy=(RangePartitionAssignor,),\n",
        "",
        f"{TESTS}a_member_joins_once_and_offers_range_alone",
    ),
    (
        "R14: heartbeats are not watched",
        CONSUMER,
        "coordinator._do_heartbeat = watched",
        "pass",
        f"{TESTS}the_lease_counts_from_when_a_heartbeat_was_sent",
    ),
    (
        "R14: a lease counts from the answer",
        CONSUMER,
        "self._heartbeat = sent",
        "self._heartbeat = asyncio.get_running_loop().time()",
        f"{TESTS}the_lease_counts_from_when_a_heartbeat_was_sent",
    ),
    (
        "R14: a lease never ends",
        CONSUMER,
        "return self._heartbeat + self._settings.session_timeout",
        "return asyncio.get_running_loop().time() + self._settings.session_timeout",
        f"{TESTS}the_lease_runs_out_while_aiokafka_still_believes_in_its_session",
    ),
    (
        "R14: a request may take longer than a session",
        CLIENT,
        '        "request_timeout_ms": round(settings.request_timeout * 1000),\n',
        "",
        f"{TESTS}a_heartbeat_that_hangs_is_given_up_before_the_session_ends",
    ),
    (
        "R15: polling nothing polls everything",
        CONSUMER,
        " or [NOWHERE]",
        "",
        f"{TESTS}what_was_fetched_of_partitions_that_wait_is_kept",
    ),
    (
        "R15: partitions that wait are paused",
        CONSUMER,
        "batches: Batches = await self._consumer.getmany(",
        PAUSING,
        f"{TESTS}what_was_fetched_of_partitions_that_wait_is_kept",
    ),
    (
        "R16: aiokafka deserialises",
        FETCHING,
        OPTION,
        f'{OPTION} "value_deserializer": __import__("orjson").loads,',
        f"{TESTS}keys_and_values_come_as_the_bytes_that_they_are",
    ),
    (
        "R16: a corrupt batch is any error",
        FAILURES,
        "kafka.CorruptRecordException, ",
        "",
        f"{TESTS}a_corrupt_batch_is_an_error_and_is_not_passed_over",
    ),
    (
        "R17: asking creates",
        CLIENT,
        "allow_auto_topic_creation=False",
        "allow_auto_topic_creation=True",
        f"{TESTS}no_client_lets_the_brokers_create_a_topic_by_asking_for_it",
    ),
    (
        "R18: out of range means from the end",
        FETCHING,
        '"auto_offset_reset": "none"',
        '"auto_offset_reset": "latest"',
        f"{TESTS}an_offset_out_of_range_is_an_error_and_moves_nothing",
    ),
    (
        "R18: followers are read",
        FETCHING,
        OPTION,
        f'{OPTION} "client_rack": "a",',
        f"{TESTS}an_offset_out_of_range_is_an_error_and_moves_nothing",
    ),
    (
        "R20: a consumer takes its time to stop",
        CONSUMER,
        "asyncio.wait_for(consumer.stop(), STOP_TIMEOUT)",
        "consumer.stop()",
        f"{TESTS}a_consumer_stops_in_time_when_the_broker_has_gone_silent",
    ),
    (
        "R20: a producer takes its time to stop",
        PRODUCER,
        "asyncio.wait_for(producer.stop(), STOP_TIMEOUT)",
        "producer.stop()",
        f"{TESTS}a_producer_stops_in_time_and_fails_what_is_not_acknowledged",
    ),
    (
        "R20: what is not acknowledged is not failed",
        PRODUCER,
        "accumulator.fail_all(kafka.ProducerClosed())",
        "pass",
        f"{TESTS}a_producer_stops_in_time_and_fails_what_is_not_acknowledged",
    ),
    (
        "R20: a request that was cut goes back into the queue",
        PRODUCER,
        "accumulator.reenqueue = _end_request",
        "pass",
        f"{TESTS}a_producer_stops_in_time_and_fails_what_is_not_acknowledged",
    ),
    (
        "R20: what was put back is forgotten with an error",
        PRODUCER,
        "accumulator._pending_batches.update(",
        "list(",
        f"{TESTS}a_producer_that_is_about_to_send_again_stops_in_time",
    ),
    (
        "R20: a producer takes its time to start",
        PRODUCER,
        "asyncio.wait_for(producer.start(), settings.request_timeout)",
        "producer.start()",
        f"{TESTS}starting_is_given_up_when_the_broker_does_not_answer",
    ),
    (
        "R20: an output waits for ever",
        PUBLISHER,
        "future.set_exception(TransportError(f",
        "str(TransportError(f",
        f"{TESTS}an_output_that_is_never_acknowledged_is_sent_again_by_another_producer",
    ),
    (
        "R21: assertions are not the transport's errors",
        FAILURES,
        "AssertionError, ",
        "",
        f"{TESTS}fatal_states_that_aiokafka_asserts_are_errors_of_the_transport",
    ),
    (
        "R21: a dead sender is not the transport's error",
        PRODUCER,
        "outcome.set_exception(translate(error))",
        "outcome.set_exception(error)",
        f"{TESTS}a_producer_whose_sender_has_died_fails_what_is_sent",
    ),
    (
        "R23: a topic that could not be created goes unnoticed",
        ADMIN,
        "if code not in (0, TOPIC_ALREADY_EXISTS):",
        "if False:",
        f"{TESTS}a_topic_that_could_not_be_created_is_an_error",
    ),
    (
        "R23: a partition that was not emptied is not looked at",
        RECORD_DELETION,
        "if code != 0:",
        "if False:",
        f"{TESTS}a_partition_that_could_not_be_emptied_is_named",
    ),
    (
        "R24: uncommitted records count as lag",
        ADMIN,
        'isolation_level="read_committed", ',
        "",
        f"{TESTS}the_ends_of_a_log_are_asked_of_the_brokers_as_a_reader_of_committed_records_sees_them",
    ),
    (
        "R25: aiokafka logs what it sends",
        CLIENT,
        "record.levelno > logging.DEBUG",
        "True",
        f"{TESTS}no_payload_and_no_password_gets_into_the_logs_of_aiokafka",
    ),
    (
        "R27: a login takes any number of iterations",
        ACCESS,
        "if iterations < FEWEST_ITERATIONS:",
        "if False:",
        f"{SECURITY_TESTS}a_login_with_too_few_iterations_is_refused",
    ),
    (
        "R33: stopping a consumer cancels who stops it",
        CONSUMER,
        "TransportError, asyncio.CancelledError) as error:",
        "TransportError) as error:",
        f"{CONSUMER_TESTS}a_member_stops_although_a_fetch_waits_to_be_tried_again",
    ),
    (
        "R34: a refused token is taken for a good one",
        ACCESS,
        "        if payload:  #",
        "        if False:  #",
        f"{SECURITY_TESTS}access_that_is_denied_is_told_with_its_reason_and_the_broker",
    ),
    (
        "R35: nobody looks why a broker did not let the client in",
        ACCESS,
        "cause, why = error, access.why(error)",
        "cause, why = error, None",
        f"{SECURITY_TESTS}access_that_is_denied_is_told_with_its_reason_and_the_broker",
    ),
    (
        "R29: nobody looks after the fetcher",
        CONSUMER,
        "            check_fetcher(self._consumer)\n",
        "",
        f"{CONSUMER_TESTS}a_fetcher_that_has_died_fails_the_polls_instead_of_finding_nothing_for_ever",
    ),
    (
        "R31: several tasks send",
        PUBLISHER,
        "                await self._send(pipe, batch)",
        "                asyncio.ensure_future(self._send(pipe, batch))",
        f"{TESTS}one_task_alone_hands_batches_to_the_producer",
    ),
]
