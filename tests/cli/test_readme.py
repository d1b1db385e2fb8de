"""What the first page shows works as it stands there."""

import re
import signal
import subprocess
import sys
from pathlib import Path

from streamkit.cli.embedded import free_port
from tests.cli.support import ROOT, running


def test_the_agent_of_the_readme_handles_what_the_readme_sends(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    port = str(free_port())
    for name, code in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", readme, re.DOTALL):
        (tmp_path / name).write_text(code.replace("19092", port))
    (command,) = re.findall(r"`streamkit (dev hello --port) 19092`", readme)
    with running(tmp_path, *command.split(), port, "--http", "127.0.0.1:0") as dev:
        dev.await_text("assigned")
        subprocess.run([sys.executable, "send.py"], cwd=tmp_path, check=True)
        dev.await_text(r"handling Order\(id='999', amount=999.0\)")
        dev.signal(signal.SIGINT)
        ended = dev.finish()
    assert ended.code == 0
    assert ended.output.count("handling") == 1000
    assert "spot 1,000 records" in ended.errors
