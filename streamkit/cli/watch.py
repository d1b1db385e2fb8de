"""Which files make up the target, and when one of them changes. watchfiles is a package of the extra `dev`."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from typing import NamedTuple

from streamkit.cli.target import module_of
from streamkit.errors import ConfigurationError, UsageError

log = logging.getLogger("streamkit")

IGNORED = frozenset({"__pycache__", "node_modules", "site-packages", "venv"})  # and whatever begins with a dot

SHOWN = 3


class Watched(NamedTuple):
    """Directories: with everything below them, and only what lies in them."""

    trees: frozenset[Path]
    folders: frozenset[Path]


def can_watch() -> bool:
    return importlib.util.find_spec("watchfiles") is not None


def require_watchfiles() -> None:
    """Raises ConfigurationError if it is not installed."""
    if not can_watch():
        raise ConfigurationError("--reload needs the package watchfiles: pip install 'streamkit-kafka[dev]'")


def watched(target: str) -> Watched:
    """The target's top-level package or the folder of its module, the files of the current directory and the packages
    in it.

    Nothing is imported. Raises UsageError when there is no such module.
    """
    here = Path.cwd()
    trees, folders = _home(module_of(target).partition(".")[0])
    packages = {entry.parent for entry in here.glob("*/__init__.py") if not _ignored(entry.parent.name)}
    return Watched(frozenset(trees | packages), frozenset(folders | {here}))


def _home(top: str) -> tuple[set[Path], set[Path]]:
    # Not through sys.path: from then on a file of the user's could take the place of a module that is needed here.
    spec = PathFinder.find_spec(top, [str(Path.cwd())]) or importlib.util.find_spec(top)
    if spec is None:
        raise UsageError(f"there is no module {top!r} in the current directory or among what is installed")
    if spec.submodule_search_locations is not None:
        return {Path(each) for each in spec.submodule_search_locations}, set()
    return set(), {Path(spec.origin).parent} if spec.has_location and spec.origin else set()


class Changes:
    """The files that have changed and that nobody has asked for yet."""

    def __init__(self) -> None:
        self._paths: set[str] = set()
        self._some = asyncio.Event()

    def note(self, paths: Collection[str]) -> None:
        self._paths.update(paths)
        self._some.set()

    def forget(self) -> None:
        self._paths.clear()
        self._some.clear()

    async def wait(self) -> str:
        """Until there are some; their names, for people. They stay until they are forgotten."""
        await self._some.wait()
        return _named(self._paths)


@asynccontextmanager
async def watching(where: Watched) -> AsyncIterator[Changes]:
    """Note every change of a .py file from now on. Raises ConfigurationError if the system lets nobody watch."""
    changes = Changes()
    tasks = [
        asyncio.create_task(_watch(paths, recursive, changes))
        for paths, recursive in ((where.trees, True), (where.folders, False))
        if paths
    ]
    for task in tasks:
        task.add_done_callback(_tell)
    # In its first step watchfiles asks the system for the changes: from here on none is missed.
    await asyncio.sleep(0)
    try:
        for task in tasks:
            if task.done():
                raise ConfigurationError("the files cannot be watched; leave out --reload")
        yield changes
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _watch(paths: Collection[Path], recursive: bool, changes: Changes) -> None:
    from watchfiles import awatch

    roots = sorted(paths)

    def is_code(_change: object, path: str) -> bool:
        return path.endswith(".py") and not any(map(_ignored, _below(roots, Path(path)).parts))

    async for found in awatch(*roots, watch_filter=is_code, recursive=recursive):
        changes.note({path for _, path in found})


def _tell(watch: asyncio.Task[None]) -> None:
    if not watch.cancelled():
        log.error("changes are not seen any more: %s", watch.exception())


def _named(paths: Collection[str]) -> str:
    names = sorted(map(os.path.relpath, paths))
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _below(roots: Collection[Path], path: Path) -> Path:
    """The path from the root on: a directory above it may well be called venv."""
    root = next((root for root in roots if path.is_relative_to(root)), None)
    return path if root is None else path.relative_to(root)


def _ignored(name: str) -> bool:
    return name in IGNORED or name.startswith(".")
