"""Puts parts of the examples into the pages: `python docs/snippets.py`.

A part stands in its file between `# snippet: NAME` and `# end: NAME`. A page shows it in the block of Python after
`<!-- snippet: FILE NAME -->`, with FILE as seen from the root of the repository.
"""

import re
import sys
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
SHOWN = re.compile(r"(<!-- snippet: (\S+) (\S+) -->\n\n?```python\n)(.*?)(```)", re.DOTALL)
MARK = re.compile(r"^ *# (?:snippet|end): .*\n", re.MULTILINE)


def part(file: str, name: str) -> str:
    """The text of a part, without the marks of others in it. Raises ValueError if the file has no such part, or two."""
    found = re.findall(
        rf"^ *# snippet: {name}\n(.*?)^ *# end: {name}$", (ROOT / file).read_text(), re.DOTALL | re.MULTILINE
    )
    if len(found) != 1:
        raise ValueError(f"{file} has {len(found)} parts {name!r}, and must have one")
    return dedent(MARK.sub("", found[0])).strip("\n") + "\n"


def updated(page: str) -> str:
    """The page with its parts as they stand in their files now."""
    return SHOWN.sub(lambda match: match[1] + part(match[2], match[3]) + match[5], page)


if __name__ == "__main__":
    for path in PAGES:
        before = path.read_text()
        after = updated(before)
        if after != before:
            path.write_text(after)
            print(f"{path.relative_to(ROOT)} is changed", file=sys.stderr)
