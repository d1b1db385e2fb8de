"""The command line, one file a command."""


def main() -> None:
    raise SystemExit("streamkit: the command line is not there yet")
