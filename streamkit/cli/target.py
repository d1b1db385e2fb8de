"""From `module:app` on the command line to the app and its agents."""

import difflib
import pkgutil
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from streamkit.agent import Agent
from streamkit.app import App
from streamkit.cli.failures import ImportFailed, users_line, users_traceback
from streamkit.errors import ConfigurationError, UsageError

LISTED = 10


def load_app(target: str) -> App:
    """Import the module, from the current directory too, and find its app.

    Raises UsageError if there is none; ImportFailed if the module raises; the module's own ConfigurationError with the
    line that caused it as a note.
    """
    module = imported(module_of(target))
    attribute = target.partition(":")[2]
    return _named(module, attribute) if attribute else _only(module)


def module_of(target: str) -> str:
    """The name of the target's module. Raises UsageError for what cannot be a target."""
    module_name, colon, attribute = target.partition(":")
    _refuse_file(target, module_name, attribute)
    if not all(part.isidentifier() for part in module_name.split(".")) or (colon and not attribute):
        raise UsageError(f"{target!r} is not a target; write module:app, or module when it holds one App")
    return module_name


def chosen_agents(app: App, names: Sequence[str]) -> list[Agent[Any, Any]]:
    """All agents, or those that `--agent` names. Raises UsageError."""
    if not app.agents and not app.timers:
        raise UsageError(
            f"app {app.name!r} declares no agents and no timers; write @app.agent(TOPIC) above an async function"
        )
    for name in names:
        if name not in app.agents:
            raise UsageError(f"app {app.name!r} has no agent {name!r}{instead(name, list(app.agents))}")
    return [agent for agent in app.agents.values() if not names or agent.name in names]


def _refuse_file(target: str, module_name: str, attribute: str) -> None:
    path = Path(module_name)
    if path.suffix == ".py" or len(path.parts) > 1:
        dotted = ".".join(path.with_suffix("").parts).strip("/.")
        better = f"{dotted}:{attribute}" if attribute else dotted
        raise UsageError(f"{target!r} is a file; TARGET is a module: {better}")


def imported(name: str) -> ModuleType:
    """The module, looked for in the current directory first. Raises as `load_app` does."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if not f"{name}.".startswith(f"{missing}.") or users_traceback(error, if_any=True):
            raise ImportFailed(name) from error
        where = "" if "." in missing else f" in {Path.cwd()}"
        raise UsageError(f"there is no module {missing!r}{where}{instead(missing, _modules_beside(missing))}") from None
    except ConfigurationError as error:
        error.add_note(users_line(error))
        raise
    # SystemExit too: a module that exits while it is imported would else end the worker with its exit code, perhaps 0.
    except (Exception, SystemExit) as error:
        raise ImportFailed(name) from error


def _named(module: ModuleType, name: str) -> App:
    found = getattr(module, name, None)
    if isinstance(found, App):
        return found
    apps = list(_apps(module))
    if hasattr(module, name):
        kind = type(found).__name__
        raise UsageError(f"{module.__name__}:{name} is no App ({kind}){instead(name, apps)}")
    raise UsageError(f"module {module.__name__!r} has no {name!r}{instead(name, apps)}")


def _only(module: ModuleType) -> App:
    names = _apps(module)
    apps = {id(app): app for app in names.values()}
    if not apps:
        raise UsageError(f"module {module.__name__!r} holds no App; write one, as in app = App({module.__name__!r})")
    if len(apps) > 1:
        choices = " or ".join(f"{module.__name__}:{name}" for name in names)
        raise UsageError(f"module {module.__name__!r} holds {len(apps)} Apps; say which: {choices}")
    return next(iter(apps.values()))


def _apps(module: ModuleType) -> dict[str, App]:
    return {name: value for name, value in vars(module).items() if isinstance(value, App)}


def _modules_beside(missing: str) -> list[str]:
    parent, _, _ = missing.rpartition(".")
    paths = list(getattr(sys.modules[parent], "__path__", [])) if parent else [str(Path.cwd())]
    prefix = f"{parent}." if parent else ""
    return [found.name for found in pkgutil.iter_modules(paths, prefix)]


def instead(name: str, known: Sequence[str]) -> str:
    """`; did you mean 'orders'?`, or what there is."""
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    if not known:
        return ""
    more = ", ..." if len(known) > LISTED else ""
    return f"; there is {', '.join(map(repr, sorted(known)[:LISTED]))}{more}"
