"""The judges of the chaos tests find what they are there to find, on ledgers written by hand."""

from __future__ import annotations

from math import inf
from pathlib import Path

from streamkit.core.offset_map import encode
from streamkit.core.offsets import OffsetWindow
from tests.faults import oracles
from tests.faults.ledger import (
    Assigned,
    Commit,
    Committed,
    End,
    History,
    LedgerFile,
    LedgerReader,
    Offsets,
    Start,
)
from tests.faults.oracles import Seen, Sent, Violation

A, B = 1001, 1002  # processes
LOG = {0: ["a", "b", "a", "a", None]}


def test_a_faultless_run_breaks_no_rule() -> None:
    history = History()
    assign(history, A, at=0, generation=1)
    for offset in (0, 1, 2):
        handle(history, A, offset, at=offset + 1)
    commit(history, A, {0: Committed(3)}, at=5, generation=1)
    assign(history, B, at=6, generation=2, found={0: Committed(3)})
    handle(history, B, 3, at=7)
    handle(history, B, 4, at=8)
    commit(history, B, {0: Committed(5)}, at=9, generation=2)
    seen = [look(Committed(3), at=5.5), look(Committed(5), at=9.5)]
    assert oracles.all_violations(history, LOG, seen) == []


def test_a_record_that_was_never_handled_is_missing() -> None:
    assert broken(oracles.missing(LOG, {(0, offset): 1.0 for offset in (0, 1, 2, 4)})) == ["nothing missing"]


def test_a_cancelled_handler_has_not_handled_its_record() -> None:
    assert oracles.settled_at([End(1, A, 1, 0, 0, "a", False)]) == {}


def test_a_key_that_starts_out_of_order_is_found() -> None:
    history = one_assignment()
    handle(history, A, 2, at=1)
    handle(history, A, 0, at=2)
    assert set(broken(oracles.out_of_turn(history, LOG))) == {"the order within a key"}


def test_a_record_that_is_left_out_is_found() -> None:
    history = one_assignment()
    handle(history, A, 0, at=1)
    handle(history, A, 3, at=2)
    assert broken(oracles.out_of_turn(history, LOG)) == ["the order within a key"]


def test_a_record_that_starts_twice_in_one_assignment_is_found() -> None:
    history = one_assignment()
    handle(history, A, 0, at=1)
    handle(history, A, 0, at=2)
    assert broken(oracles.out_of_turn(history, LOG)) == ["the order within a key"]


def test_keys_and_null_keys_need_not_wait_for_each_other() -> None:
    history = one_assignment()
    for at, offset in enumerate((4, 1, 0)):
        handle(history, A, offset, at=at)
    assert oracles.out_of_turn(history, LOG) == []


def test_a_new_owner_that_begins_above_the_commit_is_found() -> None:
    history = one_assignment(found={0: Committed(0)})
    handle(history, A, 2, at=1)
    assert broken(oracles.out_of_turn(history, LOG)) == ["the order within a key"]


def test_a_committed_record_that_runs_again_is_found() -> None:
    history = one_assignment(found={0: Committed(3)})
    handle(history, A, 2, at=1)
    assert "what is committed does not run again" in broken(oracles.out_of_turn(history, LOG))


def test_a_record_in_the_offset_map_that_runs_again_is_found() -> None:
    history = one_assignment(found={0: Committed(0, settled_map(0, ahead=[2]))})
    handle(history, A, 0, at=1)
    handle(history, A, 3, at=2)
    assert oracles.out_of_turn(history, LOG) == []
    history = one_assignment(found={0: Committed(0, settled_map(0, ahead=[2]))})
    handle(history, A, 0, at=1)
    handle(history, A, 2, at=2)
    assert "what is committed does not run again" in broken(oracles.out_of_turn(history, LOG))


def test_a_record_of_a_partition_that_is_not_assigned_is_found() -> None:
    history = History()
    handle(history, A, 0, at=1)
    assert broken(oracles.out_of_turn(history, LOG)) == ["only the owner starts records"]


def test_two_records_of_a_key_at_a_time_are_found() -> None:
    history = one_assignment()
    history.add(Start(1, A, 1, 0, 0, "a"))
    history.add(Start(2, A, 1, 0, 2, "a"))
    assert broken(oracles.overlapping(history)) == ["one at a time within a key"]


def test_a_key_that_still_runs_from_an_earlier_assignment_is_found() -> None:
    history = one_assignment()
    history.add(Start(1, A, 1, 0, 0, "a"))
    history.add(Start(2, A, 2, 0, 0, "a"))
    assert broken(oracles.overlapping(history)) == ["one at a time within a key"]


def test_other_keys_and_other_processes_may_overlap() -> None:
    history = one_assignment()
    history.add(Start(1, A, 1, 0, 0, "a"))
    history.add(Start(2, A, 1, 0, 1, "b"))
    history.add(Start(3, B, 1, 0, 0, "a"))
    assert oracles.overlapping(history) == []


def test_an_acknowledged_commit_that_the_next_owner_does_not_find_is_found() -> None:
    history = History()
    commit(history, A, {0: Committed(3)}, at=1, generation=1)
    assign(history, B, at=2, generation=2, found={0: Committed(2)})
    assert broken(oracles.forgotten_commits(history, LOG)) == ["no acknowledged commit is forgotten"]


def test_an_acknowledged_offset_map_that_the_next_owner_does_not_find_is_found() -> None:
    history = History()
    commit(history, A, {0: Committed(0, settled_map(0, ahead=[2]))}, at=1, generation=1)
    assign(history, B, at=2, generation=2, found={0: Committed(0)})
    assert broken(oracles.forgotten_commits(history, LOG)) == ["no acknowledged commit is forgotten"]


def test_a_commit_that_nobody_acknowledged_may_be_lost() -> None:
    history = History()
    commit(history, A, {0: Committed(3)}, at=1, generation=1, accepted=None)
    assign(history, B, at=2, generation=2, found={})
    assert oracles.forgotten_commits(history, LOG) == []


def test_a_commit_past_an_unsettled_record_is_found() -> None:
    assert broken(ahead([Seen(1, 2, 0, Committed(3))], {0: 1.0, 2: 1.0})) == ["committed <= settled"]


def test_a_commit_before_its_record_settled_is_found() -> None:
    assert broken(ahead([Seen(1, 2, 0, Committed(1))], {0: 2.5})) == ["committed <= settled"]
    assert broken(ahead([Seen(1, 2, 0, Committed(1))], {0: 1.5})) == []


def test_an_offset_map_that_covers_an_unsettled_record_is_found() -> None:
    seen = [Seen(1, 2, 0, Committed(0, settled_map(0, ahead=[2])))]
    assert broken(ahead(seen, {3: 1.0})) == ["committed <= settled"]
    assert broken(ahead(seen, {2: 1.0})) == []


def test_a_commit_that_goes_down_is_found() -> None:
    seen = [look(Committed(3), at=1), look(Committed(2), at=2)]
    assert broken(oracles.regressions(seen)) == ["commits only go up"]


def test_an_accepted_commit_of_an_earlier_generation_is_found() -> None:
    history = History()
    assign(history, A, at=0, generation=1)
    assign(history, B, at=5, generation=2)
    commit(history, A, {0: Committed(1)}, at=6, generation=1, accepted=False)
    assert oracles.stale_commits(history) == []
    commit(history, A, {0: Committed(1)}, at=7, generation=1)
    assert broken(oracles.stale_commits(history)) == ["a resumed zombie commits nothing"]


def test_a_commit_without_a_generation_is_found() -> None:
    history = one_assignment()
    commit(history, A, {0: Committed(1)}, at=1, generation=-1)
    assert broken(oracles.stale_commits(history)) == ["a resumed zombie commits nothing"]


def test_a_refused_commit_that_shows_all_the_same_is_found() -> None:
    history = History()
    commit(history, A, {0: Committed(1)}, at=1, generation=1, accepted=False)
    seen = [look(Committed(1), at=2)]
    assert broken(oracles.unexplained(history, seen)) == ["only accepted commits show"]
    commit(history, B, {0: Committed(1)}, at=1, generation=2, accepted=None)
    assert oracles.unexplained(history, seen) == []


def test_an_output_that_never_arrived_is_found() -> None:
    sink = [[Sent(0, offset) for offset in (0, 1, 2, 4)]]
    assert broken(oracles.output_violations(LOG, sink)) == ["no output missing"]


def test_outputs_of_a_key_that_first_arrive_in_another_order_are_found() -> None:
    sink = [[Sent(0, offset) for offset in (0, 1, 3, 2, 4)]]
    assert broken(oracles.output_violations(LOG, sink)) == ["the order of outputs"]


def test_outputs_may_arrive_again() -> None:
    sink = [[Sent(0, offset) for offset in (0, 2, 0, 2, 3, 1, 4)]]
    assert oracles.output_violations(LOG, sink) == []


def test_a_report_shows_what_the_key_did() -> None:
    history = one_assignment()
    handle(history, A, 2, at=1)
    handle(history, A, 0, at=2)
    text = oracles.report(oracles.out_of_turn(history, LOG), history)
    assert "2 × the order within a key" in text
    assert "started when offset 0 was due" in text
    assert f"Start(at=1, process={A}, assignment=1, partition=0, offset=2, key='a')" in text


def test_a_ledger_is_read_as_it_was_written_even_cut_short(tmp_path: Path) -> None:
    ledger = LedgerFile(tmp_path)
    ledger.assigned(7, [0, 1], {0: Committed(3, "m")}, 1.5)
    assignment = ledger.start(0, 3, "k")
    reader = LedgerReader(tmp_path)
    (assigned,) = reader.refresh().assigned
    assert (assigned.assignment, assigned.generation, assigned.partitions) == (1, 7, (0, 1))
    assert (assigned.found, assigned.found_from) == ({0: Committed(3, "m")}, 1.5)
    ledger.end(assignment, 0, 3, "k", done=True)
    ledger.commit_answered(ledger.commit_sent(7, {0: Committed(4)}), True)
    ledger.commit_sent(7, {0: Committed(5)})
    ledger.close()
    (path,) = tmp_path.glob("*.ledger")
    with path.open("ab") as file:
        file.write(b'["start", 1')
    history = reader.finish()
    assert [(start.offset, start.key) for start in history.starts] == [(3, "k")]
    assert [end.done for end in history.ends] == [True]
    assert [(c.offsets[0].offset, c.accepted) for c in history.commits] == [(4, True), (5, None)]


def one_assignment(found: Offsets | None = None) -> History:
    history = History()
    assign(history, A, at=0, generation=1, found=found)
    return history


def assign(history: History, process: int, *, at: float, generation: int, found: Offsets | None = None) -> None:
    history.add(Assigned(at, process, 1, generation, (0,), found or {}, at))


def handle(history: History, process: int, offset: int, *, at: float) -> None:
    key = LOG[0][offset]
    history.add(Start(at, process, 1, 0, offset, key))
    history.add(End(at + 0.1, process, 1, 0, offset, key, True))


def commit(
    history: History, process: int, offsets: Offsets, *, at: float, generation: int, accepted: bool | None = True
) -> None:
    history.add(Commit(at, None if accepted is None else at + 0.1, process, generation, offsets, accepted))


def look(committed: Committed, *, at: float) -> Seen:
    return Seen(at, at + 0.01, 0, committed)


def ahead(seen: list[Seen], settled: dict[int, float]) -> list[Violation]:
    return oracles.committed_unsettled(seen, LOG, lambda record: settled.get(record[1], inf))


def settled_map(start: int, *, ahead: list[int]) -> str:
    """The metadata of a commit at `start` that says that these offsets of LOG are settled too."""
    window = OffsetWindow(start)
    first, _ = window.register_all(range(start, len(LOG[0])))
    window.settle_all(first + offset - start for offset in ahead)
    return encode(window)


def broken(violations: list[Violation]) -> list[str]:
    return [violation.rule for violation in violations]
