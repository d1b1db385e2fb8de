from collections import Counter

import pytest
from aiokafka.partitioner import murmur2 as murmur2_of_aiokafka
from hypothesis import given
from hypothesis import strategies as st

from streamkit.core import partitioner
from streamkit.core.partitioner import Partitioner, murmur2


@given(st.binary(max_size=64))
def test_murmur2_is_that_of_aiokafka(data: bytes) -> None:
    assert murmur2(data) == murmur2_of_aiokafka(data) & 0xFFFFFFFF


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_that_of_kafka(text: bytes, expected: int) -> None:
    """The cases of Kafka's `UtilsTest.testMurmur2`."""
    assert murmur2(text) == expected & 0xFFFFFFFF


@given(st.binary(max_size=64), st.integers(1, 1000))
def test_a_key_always_goes_to_the_partition_that_kafka_clients_choose(key: bytes, count: int) -> None:
    chooser = Partitioner(count)
    expected = (murmur2_of_aiokafka(key) & 0x7FFFFFFF) % count
    assert [chooser.choose(key), chooser.choose(key), Partitioner(count).choose(key)] == [expected] * 3


def test_null_keys_go_round() -> None:
    chooser = Partitioner(3)
    assert Counter(chooser.choose(None) for _ in range(9)) == {0: 3, 1: 3, 2: 3}


def test_a_partition_that_is_asked_for_wins_over_the_key() -> None:
    chooser = Partitioner(3)
    assert [chooser.choose(b"key", number) for number in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("missing", [-1, 3])
def test_a_partition_that_does_not_exist_is_refused(missing: int) -> None:
    with pytest.raises(ValueError, match=f"there is no partition {missing}: the topic has 3"):
        Partitioner(3).choose(None, missing)


def test_the_memory_of_keys_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitioner, "REMEMBERED", 2)
    chooser = Partitioner(7)
    keys = [b"%d" % number for number in range(10)]
    chosen = [chooser.choose(key) for key in keys]
    assert len(chooser._known) <= 2
    assert [chooser.choose(key) for key in keys] == chosen
