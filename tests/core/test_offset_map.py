import random
import string
import zlib
from base64 import b64decode, b64encode
from collections.abc import Callable
from itertools import accumulate

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from streamkit.core.offset_map import SkipList, decode, encode
from streamkit.core.offsets import OffsetWindow

END = 2**62
Case = tuple[OffsetWindow, set[int], list[int]]


def case(offsets: list[int], settled: list[bool]) -> Case:
    """A window of a log, the offsets settled ahead in it, and all its offsets."""
    window = OffsetWindow(offsets[0])
    window.register_all(offsets)
    window.settle_all(n for n, is_settled in enumerate(settled) if is_settled)
    ahead = {o for o, is_settled in zip(offsets, settled, strict=True) if is_settled and o > window.committable}
    return window, ahead, offsets


@st.composite
def windows(draw: st.DrawFn, largest_gap: int = 200) -> Case:
    start = draw(st.sampled_from([0, 127, 128, 10**9, 2**50]))
    gaps = draw(st.lists(st.integers(1, draw(st.sampled_from([1, 3, largest_gap]))), min_size=1, max_size=150))
    settled = draw(st.lists(st.booleans(), min_size=len(gaps), max_size=len(gaps)))
    return case(list(accumulate(gaps, initial=start))[1:], settled)


def claimed(ranges: list[tuple[int, int]], offsets: list[int]) -> set[int]:
    return {o for o in offsets if any(start <= o < end for start, end in ranges)}


def sealed(codec: str, body: bytes, prefix: str = "sk1") -> str:
    """A map with a right checksum, whatever it says."""
    crc = zlib.crc32((prefix + codec).encode() + body) & 0xFFFF
    return prefix + codec + b64encode(body + crc.to_bytes(2, "big")).decode().rstrip("=")


def checksum_collides(text: str) -> bool:
    """Whether the checksum of a damaged map is right by chance, as 1 in 65,536 is."""
    raw = b64decode(text[4:] + "=" * (-len(text[4:]) % 4))
    return sealed(text[3], raw[:-2])[4:] == text[4:]


@given(windows())
def test_what_is_encoded_decodes_to_exactly_the_records_settled_ahead(case: Case) -> None:
    window, ahead, offsets = case
    text = encode(window)
    assert claimed(decode(text, window.committable, offsets[-1] + 1), offsets) == ahead
    assert bool(text) == bool(ahead)
    assert text.isascii()


@given(windows(), st.integers(0, 60))
def test_a_map_that_is_too_long_keeps_the_longest_prefix_that_fits(case: Case, limit: int) -> None:
    window, ahead, offsets = case
    text = encode(window, limit)
    assert len(text) <= limit
    kept = claimed(decode(text, window.committable, END), offsets)
    assert kept == {o for o in ahead if o <= max(kept, default=-1)}


def test_the_prefix_that_is_kept_could_not_be_longer() -> None:
    window, ahead, offsets = case(list(range(0, 4000, 2)), random.Random(1).choices([False, True], k=2000))
    text = encode(window, 200)
    ranges = decode(text, window.committable, END)
    assert 190 <= len(text) <= 200
    assert 0 < len(claimed(ranges, offsets)) < len(ahead)
    assert ranges == window.settled_ranges()[: len(ranges)]
    assert encode(window, 0) == encode(window, 4) == ""


PATTERNS: dict[str, Callable[[int, float], bool]] = {
    "alternating": lambda n, chance: n % 2 == 1,
    "random": lambda n, chance: chance < 0.5,
    "sparse": lambda n, chance: chance < 0.02,
    "dense": lambda n, chance: chance < 0.98,
    "pairs": lambda n, chance: n % 4 > 1,
    "all but the first": lambda n, chance: True,
    "the last": lambda n, chance: n == 23_999,
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_window_of_24_000_consecutive_records_fits_whole(pattern: str) -> None:
    chances = random.Random(pattern)
    settled = [n > 0 and PATTERNS[pattern](n, chances.random()) for n in range(24_000)]
    window, ahead, offsets = case(list(range(2**50, 2**50 + 24_000)), settled)
    text = encode(window)
    assert len(text) <= 4096
    skip = SkipList(decode(text, 2**50, END))
    assert {o for o in offsets if skip.settled(o)} == ahead


@given(windows(), st.data())
def test_a_damaged_map_never_claims_a_record_that_was_not_settled(case: Case, data: st.DataObject) -> None:
    window, ahead, offsets = case
    text = encode(window)
    assume(text)
    at = data.draw(st.integers(0, len(text) - 1))
    damaged = data.draw(
        st.sampled_from(
            [
                text[:at] + chr(ord(text[at]) ^ 1 << data.draw(st.integers(0, 7))) + text[at + 1 :],
                text[:at],
                text[:at] + text[at + 1 :],
                text[:at] + data.draw(st.sampled_from(string.ascii_letters)) + text[at:],
            ]
        )
    )
    ranges = decode(damaged, window.committable, END)
    assume(not (ranges and damaged != text and checksum_collides(damaged)))
    assert claimed(ranges, offsets) <= ahead


@pytest.mark.parametrize(
    ("codec", "pattern"),
    [
        ("r", [False] * 20 + [True] * 30 + [False] * 40 + [True] * 9),
        ("b", [False, *random.Random(1).choices([False, True], k=200)]),
        ("z", [n % 7 in (1, 2, 5) for n in range(200)]),
    ],
)
def test_no_single_flipped_bit_is_taken_for_the_truth(codec: str, pattern: list[bool]) -> None:
    window, ahead, offsets = case(list(range(1000, 1000 + len(pattern))), pattern)
    text = encode(window)
    assert text[3] == codec
    for at in range(len(text)):
        for bit in range(8):
            damaged = text[:at] + chr(ord(text[at]) ^ 1 << bit) + text[at + 1 :]
            assert claimed(decode(damaged, window.committable, END), offsets) in (set(), ahead)


@given(st.text(max_size=60), st.sampled_from(["", "sk1", "sk1r", "sk1b", "sk1z"]))
@example("AAAA", "sk2r")
@example("é", "sk1r")
@example("A", "sk1")
@example("", "sk1é")
def test_foreign_metadata_is_no_map(text: str, prefix: str) -> None:
    if decode(prefix + text, committed=0, log_end=END):
        assert checksum_collides(prefix + text)


@pytest.mark.parametrize(
    ("forged", "why"),
    [
        (sealed("r", b"\x05\x01\x02", prefix="sk2"), "of another version"),
        (sealed("x", b"\x05\x01\x02"), "of an unknown codec"),
        (sealed("r", b"\x06\x01\x02"), "made for another offset"),
        (sealed("r", b"\x05\x00\x02"), "claims the committed offset, which is unsettled"),
        (sealed("r", b"\x05\x01\x05"), "claims more than the log holds"),
        (sealed("r", b"\x05\x01\x01\x00\x01"), "does not increase"),
        (sealed("r", b""), "is empty"),
        (sealed("r", b"\x05\x01\x02").replace("sk1r", "sk1b"), "has another codec than was sealed"),
    ],
)
def test_a_forged_map_is_refused_because_it(forged: str, why: str) -> None:
    assert decode(forged, committed=5, log_end=10) == [], why


def test_the_format_does_not_change() -> None:
    window, _, _ = case([5, 6, 7, 8, 300], [False, True, True, False, True])
    assert encode(window) == sealed("r", b"\x05\x01\x02\xa4\x02\x01") == "sk1rBQECpAIBDFU"
    assert decode("sk1rBQECpAIBDFU", committed=5, log_end=301) == [(6, 8), (300, 301)]


@given(windows(), st.lists(st.integers(0, 149)))
def test_a_skip_list_answers_the_same_in_any_order(case: Case, order: list[int]) -> None:
    window, ahead, offsets = case
    skip = SkipList(window.settled_ranges())
    asked = [*offsets, *(offsets[n] for n in order if n < len(offsets))]
    assert [skip.settled(o) for o in asked] == [o in ahead for o in asked]


def test_a_skip_list_ends_where_its_last_range_does() -> None:
    assert SkipList([(3, 5), (8, 9)]).end == 9
    empty = SkipList([])
    assert (empty.end, empty.settled(0)) == (0, False)
