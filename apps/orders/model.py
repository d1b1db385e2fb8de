"""What the topics hold. Money is in cents."""

import csv
from dataclasses import astuple, dataclass
from io import StringIO


@dataclass(frozen=True, slots=True)
class Line:
    article: int
    pieces: int
    cents: int  # for all pieces together


@dataclass(frozen=True, slots=True)
class Order:
    id: str
    customer: str
    email: str
    lines: tuple[Line, ...]

    @property
    def cents(self) -> int:
        return sum(line.cents for line in self.lines)


@dataclass(frozen=True, slots=True)
class Customer:
    name: str


@dataclass(frozen=True, slots=True)
class Invoice:
    order: str
    customer: str
    cents: int
    receipt: str


@dataclass(frozen=True, slots=True)
class Movement:
    """Pieces of an article that leave the warehouse for an order."""

    article: int
    pieces: int
    order: str


@dataclass(frozen=True, slots=True)
class Demand:
    """Pieces of an article that left the warehouse in the same moment."""

    article: int
    pieces: int


@dataclass(frozen=True, slots=True)
class Total:
    """What a customer has paid for so many orders."""

    orders: int
    cents: int


@dataclass(frozen=True, slots=True)
class Alert:
    order: str
    cents: int


@dataclass(frozen=True, slots=True)
class Revenue:
    cents: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the audit."""

    order: str
    source: str
    cents: int


# snippet: codec
class Csv:
    """A codec of one's own: what the auditors' program reads is a line of CSV, not JSON."""

    def encode(self, value: Entry, /) -> bytes:
        line = StringIO()
        csv.writer(line).writerow(astuple(value))
        return line.getvalue().removesuffix("\r\n").encode()

    def decode(self, data: bytes, /) -> Entry:
        ((order, source, cents),) = csv.reader([data.decode()])
        return Entry(order, source, int(cents))


# end: codec
