"""The command line, one file a command. What is slow to import is imported by the command that needs it."""


def main() -> None:
    """The console script `streamkit`."""
    from streamkit.cli.group import group

    group(prog_name="streamkit")
