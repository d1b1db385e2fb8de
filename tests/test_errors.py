from streamkit.errors import EncodeError, LostRange, MissingTopic, RecordFailed, hex_excerpt


def test_a_failed_record_says_which_record_which_error_and_what_to_do() -> None:
    cause = ValueError("declined")
    failed = RecordFailed("charge", "handle", "orders", 3, 42, b"a-1", cause, group="shop.charge", brokers="kafka:9092")
    assert str(failed) == (
        "agent 'charge' failed at stage handle on orders[3] offset 42, key b'a-1': ValueError: declined\n"
        'Mend the handler, or declare retry=Retry.exponential("5s") to run such records again, '
        "or dead_letter=True to set them aside. "
        "The record is not committed: the next start runs it again.\n"
        "To pass over it, stop all workers of the group and run: kafka-consumer-groups.sh "
        "--bootstrap-server kafka:9092 --group shop.charge --topic orders:3 --reset-offsets --to-offset 43 --execute"
    )


def test_an_undecodable_record_shows_its_bytes() -> None:
    failed = RecordFailed("a", "decode-value", "t", 0, 0, None, ValueError("no"), raw=b'{"id\xff')
    assert "key null" in str(failed)
    assert 'The bytes: 7b 22 69 64 ff |{"id.| (5 bytes)' in str(failed)


def test_a_failed_record_keeps_its_cause() -> None:
    cause = ValueError("declined")
    assert RecordFailed("a", "sink", "t", 0, 0, None, cause).cause is cause


def test_long_bytes_are_cut_in_the_excerpt() -> None:
    assert hex_excerpt(b"a" * 40, limit=4) == "61 61 61 61 ... |aaaa...| (40 bytes)"
    assert hex_excerpt(b"") == " || (0 bytes)"


def test_an_encode_error_names_both_types() -> None:
    assert str(EncodeError("Invoice", [1])) == "expected Invoice, got list: [1]"


def test_a_missing_topic_comes_with_the_command_that_creates_it() -> None:
    message = str(MissingTopic({"b": (None, None), "a": (6, 3)}, "host:9092"))
    assert message == (
        "missing: a, b. Create with\n"
        "  kafka-topics.sh --bootstrap-server host:9092 --create --topic a --partitions 6 --replication-factor 3\n"
        "  kafka-topics.sh --bootstrap-server host:9092 --create --topic b --partitions 1 --replication-factor 1\n"
        "or declare partitions= and start with --create-topics."
    )


def test_a_missing_topic_is_created_with_the_settings_that_it_must_have() -> None:
    message = str(MissingTopic({"b": (2, 1), "a": (6, 3)}, "host:9092", configs={"a": {"y": "2", "x": "1"}}))
    assert message == (
        "missing: a, b. Create with\n"
        "  kafka-topics.sh --bootstrap-server host:9092 --create --topic a --partitions 6 --replication-factor 3 "
        "--config x=1 --config y=2\n"
        "  kafka-topics.sh --bootstrap-server host:9092 --create --topic b --partitions 2 --replication-factor 1\n"
        "or start with --create-topics."
    )


def test_a_lost_range_names_the_offsets_that_fell_to_retention() -> None:
    message = str(LostRange("shop.charge", "orders", 3, committed=100, start=500, end=900))
    assert "group 'shop.charge' is to go on with orders[3] at offset 100" in message
    assert "the log now starts at 500: offsets 100 to 499 (400) fell to retention unread" in message
    assert 'on_gap="earliest"' in message


def test_a_lost_range_tells_a_topic_made_anew_from_one_that_is_gone() -> None:
    shorter = str(LostRange("g", "t", 0, committed=100, start=0, end=10))
    assert "the log ends at 10: the topic was made anew or cut short, and offsets 10 to 99 are gone" in shorter
    gone = str(LostRange("g", "t", 0, committed=100, start=None, end=None))
    assert "the topic is gone, with everything from offset 100 on" in gone
