from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from streamkit.core.commits import CommitSchedule


def test_nothing_is_due_while_nothing_has_changed() -> None:
    schedule = CommitSchedule()
    assert not schedule.dirty
    assert schedule.wait(now=1e9) is None
    assert schedule.due(now=1e9) is False


def test_the_first_record_is_due_at_once_and_the_next_after_the_interval() -> None:
    schedule = CommitSchedule(every_s=1.0)
    schedule.settled()
    assert schedule.due(now=10.0)
    schedule.committed(schedule.begin(now=10.0))
    schedule.settled()
    assert schedule.wait(now=10.25) == 0.75
    assert not schedule.due(now=10.75)
    assert schedule.due(now=11.0)


def test_many_records_are_due_before_the_interval_has_passed() -> None:
    schedule = CommitSchedule(every_s=1.0, records=100)
    schedule.settled()
    schedule.committed(schedule.begin(now=10.0))
    schedule.settled(99)
    assert not schedule.due(now=10.0)
    schedule.settled(1)
    assert schedule.due(now=10.0)


def test_what_settles_while_a_commit_is_awaited_is_due_again() -> None:
    schedule = CommitSchedule(every_s=1.0, records=100)
    schedule.settled(50)
    started = schedule.begin(now=10.0)
    schedule.settled(100)
    schedule.committed(started)
    assert schedule.dirty
    assert schedule.due(now=10.0)


def test_a_failed_commit_stays_dirty_and_is_tried_again_after_the_interval() -> None:
    schedule = CommitSchedule(every_s=1.0, records=100)
    schedule.settled(100)
    schedule.begin(now=10.0)
    assert schedule.dirty
    assert not schedule.due(now=10.5)
    assert schedule.due(now=11.0)


def test_a_late_acknowledgement_of_an_earlier_commit_takes_nothing_back() -> None:
    schedule = CommitSchedule()
    schedule.settled()
    first = schedule.begin(now=10.0)
    schedule.settled()
    schedule.committed(schedule.begin(now=11.0))
    schedule.committed(first)
    assert not schedule.dirty


def test_a_position_that_moved_past_markers_is_due() -> None:
    schedule = CommitSchedule()
    schedule.touch()
    assert schedule.due(now=0.0)


class Commits(RuleBasedStateMachine):
    """Dirty means: a change that no successful commit has covered; and due comes in time."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule = CommitSchedule(every_s=1.0, records=10)
        self.now = 0.0
        self.uncovered = 0
        self.started: tuple[int, int] | None = None  # what begin returned, and what it covers

    @rule(records=st.integers(1, 15))
    def settle(self, records: int) -> None:
        self.schedule.settled(records)
        self.uncovered += records

    @rule()
    def touch(self) -> None:
        self.schedule.touch()
        self.uncovered += 1

    @rule(seconds=st.sampled_from([0.0, 0.25, 1.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.started is None)
    @rule()
    def begin(self) -> None:
        self.started = self.schedule.begin(self.now), self.uncovered

    @precondition(lambda self: self.started is not None)
    @rule(succeeds=st.booleans())
    def end(self, succeeds: bool) -> None:
        assert self.started is not None
        if succeeds:
            self.schedule.committed(self.started[0])
            self.uncovered -= self.started[1]
        self.started = None

    @invariant()
    def dirty_is_what_no_commit_covers(self) -> None:
        assert self.schedule.dirty == (self.uncovered > 0)
        assert self.schedule.due(self.now + 1.0) == self.schedule.dirty
        assert (self.schedule.wait(self.now) is None) == (not self.schedule.dirty)


TestCommits = Commits.TestCase
