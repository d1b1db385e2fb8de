"""The version of the installed distribution."""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed


def version() -> str:
    try:
        return installed("streamkit-kafka")
    except PackageNotFoundError:  # run from a checkout
        return "unknown"
