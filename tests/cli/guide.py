"""Follows a page of the documentation as a newcomer does: its files are written, its commands typed as they stand."""

import re
import shlex
from pathlib import Path

from streamkit.cli.embedded import free_port
from tests.cli.support import ROOT

FILE = re.compile(r"```(?:python|yaml)\n# ([\w.]+)\n(.*?)```", re.DOTALL)
COMMAND = re.compile(r"^(?:`|)streamkit ((?:dev|send|worker) [^`\n]+)", re.MULTILINE)
BROKER, METRICS = "19092", "9464"


class Guide:
    """A page with free ports in the place of those that it names."""

    def __init__(self, page: str) -> None:
        self.broker_port, self.metrics_port = free_port(), free_port()
        text = (ROOT / page).read_text().replace(BROKER, str(self.broker_port))
        self._text = text.replace(METRICS, str(self.metrics_port))

    def write_files(self, directory: Path) -> list[str]:
        """Write the blocks that begin with the name of a file; their names."""
        for name, content in (files := FILE.findall(self._text)):
            (directory / name).write_text(content)
        return [name for name, _ in files]

    def command(self, name: str) -> list[str]:
        """The arguments of the only `streamkit NAME` on the page."""
        (line,) = [line for line in COMMAND.findall(self._text) if line.startswith(f"{name} ")]
        return shlex.split(line)

    @property
    def http(self) -> list[str]:
        """Another program may have the default port, and would not be told from the page's."""
        return ["--http", f"127.0.0.1:{self.metrics_port}"]
