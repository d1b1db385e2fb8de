import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamkit.core import runs
from streamkit.core.runs import MAX_INFLATED, pack, split_varint, unpack, varint

lengths = st.one_of(st.integers(1, 3), st.integers(1, 300), st.integers(1, 2**40))
run_lists = st.lists(st.tuples(lengths, lengths), min_size=1, max_size=200).map(
    lambda pairs: [n for p in pairs for n in p]
)


@given(run_lists)
def test_what_is_packed_unpacks(lengths: list[int]) -> None:
    codec, payload = pack(lengths)
    assert unpack(codec, payload) == lengths


@given(run_lists)
def test_packing_is_as_short_as_the_shortest_codec(lengths: list[int]) -> None:
    plain = b"".join(map(varint, lengths))
    bitmap = len(varint(sum(lengths))) + (sum(lengths) + 7) // 8
    assert len(pack(lengths)[1]) <= min(len(plain), len(zlib.compress(plain)), bitmap)


@pytest.mark.parametrize(
    ("lengths", "codec"), [([5, 70_000], "r"), ([1, 1] * 5000, "z"), ([1, 2, 1, 1, 2, 1, 1, 3, 1, 1, 3, 3], "b")]
)
def test_each_codec_is_chosen_where_it_is_shortest(lengths: list[int], codec: str) -> None:
    assert pack(lengths)[0] == codec
    assert unpack(*pack(lengths)) == lengths


@pytest.mark.parametrize(
    ("lengths", "codec", "payload"),
    [
        ([1, 300], "r", "01ac02"),
        ([2, 3, 1, 4], "b", "0adc03"),
        ([1, 1], "z", zlib.compress(b"\x01\x01").hex()),
    ],
)
def test_the_bytes_are_as_the_format_says(lengths: list[int], codec: str, payload: str) -> None:
    assert unpack(codec, bytes.fromhex(payload)) == lengths


@given(st.integers(0, 2**63 - 1), st.binary(max_size=20))
def test_a_number_is_split_from_what_follows(number: int, rest: bytes) -> None:
    assert split_varint(varint(number) + rest) == (number, rest)


@given(st.sampled_from("rbz"), st.binary(max_size=100))
def test_any_bytes_unpack_to_well_formed_runs_or_are_refused(codec: str, payload: bytes) -> None:
    try:
        lengths = unpack(codec, payload)
    except (ValueError, zlib.error):
        return
    assert lengths and len(lengths) % 2 == 0 and min(lengths) > 0


@pytest.mark.parametrize(
    ("codec", "payload"),
    [
        ("x", b"\x01\x01"),  # an unknown codec
        ("r", b""),  # nothing
        ("r", b"\x01"),  # ends unsettled
        ("r", b"\x00\x01"),  # begins settled
        ("r", b"\x01\x01\x00\x01"),  # a run of nothing
        ("r", b"\x01\x81"),  # ends within a number
        ("r", b"\x01" + b"\x80" * 9 + b"\x01"),  # a number beyond any offset
        ("b", b""),  # no size
        ("b", b"\x00"),  # no bits
        ("b", b"\x09\x02"),  # fewer bits than stated
        ("b", b"\x02\x02\x00"),  # more bits than stated
        ("b", b"\x02\x06"),  # a bit set beyond those stated
        ("b", b"\x03\x02"),  # ends unsettled
        ("b", b"\x02\x03"),  # begins settled
        ("b", varint(2**62) + b"\x02"),  # would fill the memory
        ("z", zlib.compress(b"\x01\x01")[:-1]),  # truncated
        ("z", zlib.compress(b"\x01\x01") + b"\x00"),  # followed by something
        ("z", zlib.compress(b"\x01" * (MAX_INFLATED + 2))),  # a bomb
    ],
)
def test_what_packing_never_makes_is_refused(codec: str, payload: bytes) -> None:
    with pytest.raises(ValueError):
        unpack(codec, payload)


def test_runs_too_many_to_inflate_are_not_compressed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "MAX_INFLATED", 100)
    assert pack([1, 1] * 51)[0] != "z"
