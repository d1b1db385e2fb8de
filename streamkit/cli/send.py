"""`streamkit send`: records to a topic, from the command line, a file or standard input."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from streamkit.cli.options import Command, brokers_option, epilog
from streamkit.errors import UsageError

if TYPE_CHECKING:
    from streamkit.cli.destination import Destination
    from streamkit.cli.outgoing import Form, Outgoing
    from streamkit.settings import Settings

STANDARD_INPUT = "standard input"


@click.command(cls=Command, epilog=epilog("""streamkit send shop:orders '{"id": "7"}' --key customer-1"""))
@click.argument("topic")
@click.argument("value", required=False)
@brokers_option
@click.option("--file", "-f", metavar="PATH", help="A record a line (JSON lines); - is standard input.")
@click.option("--key", "-k", metavar="TEXT", help="The key.  [default: null]")
@click.option("--key-field", metavar="NAME", help="Take the key from this field of the value.")
@click.option("--header", "-H", "headers", multiple=True, metavar="NAME=VALUE", help="A header; may be repeated.")
@click.option("--partition", "-p", type=click.IntRange(0), metavar="N", help="Instead of the key's.")
@click.option("--null", is_flag=True, help="No value: a tombstone for --key.")
@click.option("--envelope", is_flag=True, help="Lines hold key, value, headers, partition, timestamp.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), metavar="N", help="At most N a second.")
@click.option("--skip-bad", is_flag=True, help="Report bad lines and go on; exit 1 at the end.")
@click.option("--dry-run", is_flag=True, help="Only check; send nothing.")
def send(topic: str, brokers: str | None, **given: Any) -> None:
    """Send VALUE, or the lines of a file or of standard input, to TOPIC.

    TOPIC is a name, and values go as they are; or module:topic for a declared one, and its types check and encode them.
    """
    options = Options(**given)
    import asyncio

    from streamkit.cli.destination import destination
    from streamkit.cli.logs import configure_logs_of_command

    to = destination(topic)
    settings = to.settings(brokers)
    configure_logs_of_command(settings)
    raise SystemExit(asyncio.run(_send(to, settings, options)))


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line says of the records. Raises UsageError if it contradicts itself."""

    value: str | None
    file: str | None
    key: str | None
    key_field: str | None
    headers: tuple[str, ...]
    partition: int | None
    null: bool
    envelope: bool
    rate: float | None
    skip_bad: bool
    dry_run: bool

    def __post_init__(self) -> None:
        if self.null and self.key is None:
            raise UsageError("--null is a tombstone for a key: give --key, too")
        if sum((self.value is not None, self.file is not None, self.null)) > 1:
            raise UsageError("give only one of VALUE, --file and --null")
        if self.key is not None and self.key_field is not None:
            raise UsageError("give --key or --key-field, not both")
        if self.envelope and any(each is not None for each in (self.key, self.key_field, self.partition)):
            raise UsageError("with --envelope, keys and partitions stand in the lines")
        if not self.is_one and self.file is None and sys.stdin.isatty():
            raise UsageError("nothing to send: give VALUE, --file PATH, or lines on standard input")

    @property
    def is_one(self) -> bool:
        """One record, which stands on the command line."""
        return self.value is not None or self.null


async def _send(to: Destination, settings: Settings, options: Options) -> int:
    import asyncio
    import logging

    from streamkit.cli.destination import BadRecord
    from streamkit.cli.sending import Sending
    from streamkit.cli.signals import take_signals

    def end_now(code: int) -> None:
        logging.shutdown()
        os._exit(code)

    try:
        form = _form(to, options)
        records = [_only(form, options)] if options.is_one else []
    except BadRecord as error:
        raise UsageError(str(error)) from error
    sending = Sending(
        topic=to.topic,
        settings=settings,
        creation=_creation(to, settings),
        form=form,
        records=records,
        rate=options.rate,
        skip_bad=options.skip_bad,
        dry_run=options.dry_run,
    )
    if not options.is_one:
        sending.descriptor, sending.source = _open(options.file)
    take_signals(asyncio.get_running_loop(), sending.stop, end_now)
    return await sending.run()


def _form(to: Destination, options: Options) -> Form:
    from streamkit.cli.outgoing import Form, parse_headers

    return Form(
        to.encoding,
        key=None if options.key is None else to.encoding.key(os.fsencode(options.key)),
        headers=parse_headers(options.headers),
        partition=options.partition,
        key_field=options.key_field,
        envelope=options.envelope,
    )


def _only(form: Form, options: Options) -> Outgoing:
    return form.tombstone() if options.value is None else form.read(os.fsencode(options.value))


def _open(path: str | None) -> tuple[int, str]:
    if path is None or path == "-":
        return sys.stdin.fileno(), STANDARD_INPUT
    if os.path.isdir(path):
        raise UsageError(f"--file {path}: it is a directory")
    try:
        return os.open(path, os.O_RDONLY), path
    except OSError as error:
        raise UsageError(f"--file {path}: {error.strerror}") from error


def _creation(to: Destination, settings: Settings) -> str:
    partitions = (to.declared.partitions if to.declared else None) or 1
    replication = (to.declared.replication if to.declared else None) or 1
    return (
        f"kafka-topics.sh --bootstrap-server {','.join(settings.brokers)} --create --topic {to.topic} "
        f"--partitions {partitions} --replication-factor {replication}"
    )
