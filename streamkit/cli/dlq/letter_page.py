"""One dead letter for people: sections below each other. What is cut says so, and `--json` has all of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from streamkit.cli.dlq.contents import Reading, line_of, parts, start_of
from streamkit.cli.dlq.history import History
from streamkit.cli.dlq.letter_details import LetterDetails
from streamkit.cli.dlq.lookup import AROUND, Nearby, Source
from streamkit.cli.dlq.times import UNKNOWN, shown
from streamkit.cli.paper import console, folded, short
from streamkit.core.cases import OPEN, CaseStatus
from streamkit.core.copies import PREFIX
from streamkit.core.letters import Letter
from streamkit.core.selection import error_line

INDENT = "  "
WIDTH = 80  # columns of a list
LABEL = 26  # columns that are kept free for names
MOST = 1_000  # characters of a line

_ENDED = {
    "handled": "its copy was handled",
    "retried": "its copy failed, and waits for its next retry",
    "dead": "its copy failed for good",
}
_STATES = {
    "kept": "still there",
    "replaced": "gone: another record has its offset, so the topic was made anew",
    "missing": "gone: compaction has removed it",
    "removed": "gone: the log now starts behind it (retention)",
    "beyond": "gone: the log ends before it, so the topic was made anew or cut short",
    "no_partition": "gone: the topic has no such partition",
    "no_topic": "gone: the topic does not exist",
    "unreadable": "cannot be looked for",
}


def print_page(found: LetterDetails) -> None:
    paper = console()
    for line in _lines(found):
        heading = bool(line) and not line.startswith(INDENT)
        for row in folded(line, paper.width):
            paper.print(row, style="bold" if heading else None, soft_wrap=True)


def _lines(found: LetterDetails) -> Iterator[str]:
    letter = found.letter
    yield f"{found.topic} {letter.id}"
    yield from _rows(_summary(letter, found.history))
    yield from _section("error", [error_line(letter) or "(no error stated)"])
    if letter.error_stack:
        yield from _section("stack", [letter.error_stack.rstrip()])
    yield from _content("key", found.key, letter)
    yield from _content("value", found.value, letter)
    yield from _headers("headers", letter.user_headers, letter)
    yield from _headers("headers of streamkit", [each for each in letter.headers if each[0].startswith(PREFIX)], letter)
    yield from _section("history", _history(found.history))
    yield from _section("source", _source(found.source, letter))


def _summary(letter: Letter, history: History) -> Iterator[tuple[str, str]]:
    yield "status", history.case.status.status
    yield "case", f"{history.case.id}, which failed again" if history.first else history.case.id
    yield "group", letter.group or UNKNOWN
    yield "stage", letter.stage or UNKNOWN
    yield "attempts", UNKNOWN if letter.attempts is None else str(letter.attempts)
    yield "first failed", shown(letter.first_failed)
    yield "failed", shown(letter.failed)
    yield "appended", shown(letter.appended)


def _content(title: str, content: Reading, letter: Letter) -> Iterator[str]:
    if title in letter.omitted:
        yield from _section(title, ["left out: the copy would have been too large with it"])
        return
    first, *others = parts(content)
    yield from ("", f"{title} ({first.what})")
    if content.error is not None:
        yield from _indented([start_of(f"cannot be read as {content.type_name}: {content.error}")])
    yield from _indented([first.text] if first.text else [])
    for other in others:
        yield from _indented([f"{other.what}:", other.text])


def _headers(title: str, headers: Iterable[tuple[str, bytes | None]], letter: Letter) -> Iterator[str]:
    rows = [(name, "(above)" if _is_above(name, value, letter) else line_of(value)) for name, value in headers]
    if "headers" in letter.omitted and title == "headers":
        rows.append(("left out", "the copy would have been too large with them"))
    if rows:
        yield from ("", title, *_rows(rows))


def _is_above(name: str, value: bytes | None, letter: Letter) -> bool:
    return name in ("sk-error-message", "sk-error-stack") and bool(value) and value == letter.found[name]


def _history(history: History) -> Iterator[str]:
    if history.first is not None:
        yield f"{history.case.id}: {_done(history.first)}"
    if history.run is not None:
        run = history.run
        attempt = "" if run.attempt is None else f", attempt {run.attempt}"
        letter = "" if run.letter is None else f", as {run.letter}"
        yield f"{history.case.id}: {shown(run.at)} {_ENDED[run.outcome]}{attempt}{letter}"
    known = history.case.status
    if known.status == "handled":  # its replay was noted so; the run above tells the rest
        known = known._replace(status="replayed")
    yield f"{history.case.letter.id}: {_done(known)}"
    for fields in history.audits:
        yield f"job {fields.get('job')}: {fields.get('command')} by {fields.get('who')}, {fields.get('result')}"


def _done(known: CaseStatus) -> str:
    if known == OPEN:
        return "nothing was done with it"
    who = f" by {known.who}" if known.who else ""
    job = f" (job {known.job})" if known.job else ""
    replays = f", {known.replays} replay{'' if known.replays == 1 else 's'} so far" if known.replays else ""
    reason = f": {known.reason}" if known.reason else ""
    return f"{shown(known.at)} {known.status}{who}{job}{replays}{reason}"


def _source(source: Source, letter: Letter) -> Iterator[str]:
    if source.state == "unstated":
        yield "the letter does not say where it came from"
        return
    where = f"{short(letter.origin_topic or '', MOST)}[{letter.origin_partition}] offset {letter.origin_offset}"
    yield where + ("" if letter.origin_timestamp is None else f", {shown(letter.origin_timestamp)}")
    yield _STATES[source.state] + (f": {source.error}" if source.error else "")
    for side, nearby in (("before", source.before), ("after", source.after)):
        if nearby:
            yield f"of its key, among the {AROUND} offsets {side}:"
            yield from map(_nearby, nearby)


def _nearby(each: Nearby) -> str:
    size = "null" if each.size is None else f"{each.size:,} bytes"
    start = f"{INDENT}{each.offset:>10} {shown(each.timestamp)} {size:>12}"
    if each.start is None:
        return start
    return f"{start}  {short(line_of(each.start), WIDTH - 2 * len(INDENT) - len(start))}"


def _section(title: str, texts: Iterable[str]) -> Iterator[str]:
    yield from ("", title, *_indented(map(start_of, texts)))


def _rows(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    """A line each: what stands in a record must not look like a line of this page."""
    known = [(short(name, MOST), short(value, MOST)) for name, value in rows]
    width = max((len(name) for name, _ in known if len(name) <= LABEL), default=0)
    for name, value in known:
        yield f"{INDENT}{name:<{width}}  {value}"


def _indented(texts: Iterable[str]) -> Iterator[str]:
    return (INDENT + line for text in texts for line in text.split("\n"))
