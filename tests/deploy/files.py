"""docker-compose.yml and the Dockerfile, read for the tests: neither Docker nor Compose is needed."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
HEALTHCHECK = ROOT / "deploy/healthcheck.py"
CREATE_TOPICS = ROOT / "deploy/kafka/create-topics.sh"
PROMETHEUS_CONFIG = ROOT / "deploy/prometheus/prometheus.yml"


class Instruction(NamedTuple):
    stage: int
    name: str
    arguments: str

    @property
    def exec_form(self) -> list[str] | None:
        """The list that it is written as, or None."""
        start = self.arguments.find("[")
        if start < 0:
            return None
        parsed: list[str] = json.loads(self.arguments[start:])
        return parsed


def _instructions() -> Iterator[Instruction]:
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    stage = -1
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            name, _, arguments = line.partition(" ")
            stage += name == "FROM"
            yield Instruction(stage, name, arguments.strip())


DOCKERFILE = list(_instructions())
LAST_STAGE = DOCKERFILE[-1].stage


def instructions(name: str, *, stage: int = LAST_STAGE) -> list[Instruction]:
    return [each for each in DOCKERFILE if each.name == name and each.stage == stage]


def instruction(name: str, *, stage: int = LAST_STAGE) -> Instruction:
    """The only one of that name in the stage."""
    (found,) = instructions(name, stage=stage)
    return found


def exec_form(name: str) -> list[str]:
    found = instruction(name).exec_form
    assert found is not None, f"{name} is not in exec form"
    return found


def image_environment() -> dict[str, str]:
    """What ENV sets in the image."""
    return dict(word.split("=", 1) for word in shlex.split(instruction("ENV").arguments))


def copied(stage: int) -> Iterator[tuple[list[str], str]]:
    """Each COPY from the checkout: what, and to where."""
    for each in instructions("COPY", stage=stage):
        *sources, target = each.arguments.split()
        if not each.arguments.startswith("--from"):
            yield sources, target


def seconds(duration: str) -> float:
    """Compose's `1m30s`, of which one unit is used here."""
    match = re.fullmatch(r"(\d+)s", duration)
    assert match, duration
    return float(match[1])
