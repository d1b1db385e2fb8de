"""`streamkit dlq`: the commands for dead letters under one name.

Each command is a module of its name (`archive`, `restore` and `discard` are in `marks`) and loads what it needs when it
is run:

- whose letters, and which: `options`, `ids`, `where`, `selecting`, `reading`;
- one letter: `lookup`, `history`, `letter_details`, `contents`, `letter_page`; as JSON: `jsonl`;
- changes: `change_options`, `changing` (preview, question, work), `jobs` (lock, crash, audit), `watching`;
- what is done with each letter: `actions`, `replaying`, `editing` (with `editor` and `document`), `transforming` (with
  `scripts`), `values`;
- what is no action on letters one by one: `importing`, `purging`.
"""

from __future__ import annotations

import click

from streamkit.cli.dlq.audit import audit
from streamkit.cli.dlq.edit import edit
from streamkit.cli.dlq.export import export
from streamkit.cli.dlq.groups import groups
from streamkit.cli.dlq.import_ import import_
from streamkit.cli.dlq.ls import ls
from streamkit.cli.dlq.marks import archive, discard, restore
from streamkit.cli.dlq.purge import purge
from streamkit.cli.dlq.replay import replay
from streamkit.cli.dlq.resume import resume
from streamkit.cli.dlq.search import search
from streamkit.cli.dlq.show import show
from streamkit.cli.dlq.transform import transform
from streamkit.cli.options import Group, epilog


@click.group(cls=Group, epilog=epilog("streamkit dlq groups shop"))
def dlq() -> None:
    """Work the dead letters of TARGET's agents, or of --topic: what has failed for good. Needs no worker."""


for command in (
    ls,
    groups,
    search,
    show,
    export,
    replay,
    edit,
    transform,
    archive,
    restore,
    discard,
    import_,
    purge,
    resume,
    audit,
):
    dlq.add_command(command)
