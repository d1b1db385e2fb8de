"""docker-compose.yml says what this checkout and a Kafka understand. It cannot be started here."""

import base64
import re
import subprocess
from pathlib import Path, PurePosixPath

import pytest
import yaml
from click import Context

from apps.flights.agents import app
from streamkit.cli.group import group
from streamkit.cli.target import chosen_agents, load_app
from streamkit.runtime.retry_topics import wanted_topics
from streamkit.runtime.start_topics import as_new
from streamkit.settings import PREFIX, Settings, setting_fields
from streamkit.transport.base import TopicInfo
from tests.deploy.containers import server_properties
from tests.deploy.files import COMPOSE, CREATE_TOPICS, PROMETHEUS_CONFIG, ROOT, SERVICES, exec_form, seconds
from tests.kafka.server import VERSION

KAFKA = server_properties(SERVICES["kafka"]["environment"])
WORKER = SERVICES["worker"]
# What Compose knows, as far as it is used: a misspelt word is refused by Compose, and would be found only there.
WORDS = {
    *("build", "cap_drop", "command", "depends_on", "entrypoint", "environment", "expose", "healthcheck", "image"),
    *("ports", "profiles", "read_only", "restart", "security_opt", "stop_grace_period", "tmpfs", "volumes"),
}


def test_the_services_are_those_that_the_page_goes_through() -> None:
    assert COMPOSE.keys() == {"name", "services", "volumes"}
    assert list(SERVICES) == ["kafka", "topics", "worker", "feed", "prometheus", "grafana"]
    page = (ROOT / "docs/deployment.md").read_text()
    assert not [name for name in SERVICES if f"`{name}`" not in page]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_uses_words_of_compose_only(name: str) -> None:
    assert SERVICES[name].keys() <= WORDS
    assert SERVICES[name].get("healthcheck", {}).keys() <= {
        *("test", "interval", "timeout", "start_period", "retries", "disable")
    }


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_that_is_pulled_has_a_version(name: str) -> None:
    if "build" in SERVICES[name]:
        assert (ROOT / SERVICES[name]["build"] / "Dockerfile").is_file()
    else:
        assert re.fullmatch(r"[a-z]+/[a-z]+:v?\d+\.\d+\.\d+", SERVICES[name]["image"])


@pytest.mark.parametrize("name", SERVICES)
def test_a_port_is_open_to_this_machine_only(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


@pytest.mark.parametrize("name", SERVICES)
def test_every_volume_and_whatever_is_mounted_exists(name: str) -> None:
    sources = [volume.split(":")[0] for volume in SERVICES[name].get("volumes", [])]
    assert all((ROOT / each).exists() if each.startswith("./") else each in COMPOSE["volumes"] for each in sources)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_waits_only_for_what_can_happen(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        if how["condition"] == "service_healthy":
            assert "test" in SERVICES[other]["healthcheck"]
        else:
            assert (how["condition"], SERVICES[other]["restart"]) == ("service_completed_successfully", "no")


def test_kafka_is_the_version_that_the_tests_run() -> None:
    assert VERSION.startswith("4.")
    assert {SERVICES[name]["image"] for name in ("kafka", "topics")} == {f"apache/kafka:{VERSION}"}


def test_kafka_is_one_node_in_kraft_mode() -> None:
    listeners = dict(each.split("://") for each in KAFKA["listeners"].split(","))
    advertised = dict(each.split("://") for each in KAFKA["advertised.listeners"].split(","))
    protocols = dict(each.split(":") for each in KAFKA["listener.security.protocol.map"].split(","))
    assert KAFKA["process.roles"] == "broker,controller"
    assert "zookeeper.connect" not in KAFKA
    assert KAFKA["controller.quorum.voters"] == f"{KAFKA['node.id']}@kafka{listeners['CONTROLLER']}"
    assert KAFKA["controller.listener.names"] == "CONTROLLER"
    assert listeners.keys() == protocols.keys() == {*advertised, "CONTROLLER"}
    assert advertised[KAFKA["inter.broker.listener.name"]] == "kafka:9092"
    assert [f"127.0.0.1:{advertised['HOST'].split(':')[1]}{listeners['HOST']}"] == SERVICES["kafka"]["ports"]
    assert KAFKA["auto.create.topics.enable"] == "false"
    assert len(base64.urlsafe_b64decode(SERVICES["kafka"]["environment"]["CLUSTER_ID"] + "==")) == 16


def test_kafka_keeps_its_data_in_a_volume() -> None:
    assert [f"kafka-data:{KAFKA['log.dirs']}"] == SERVICES["kafka"]["volumes"]


def test_the_topics_are_those_that_the_app_declares_and_its_agents_need(tmp_path: Path) -> None:
    tool = tmp_path / "kafka-topics.sh"
    tool.write_text('#!/bin/sh\necho "$@"\n')
    tool.chmod(0o755)
    ran = subprocess.run(
        ["bash", CREATE_TOPICS, "kafka:9092"], env={"BIN": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    # Of the broker's defaults, the largest record alone plays a part.
    known = {topic.name: TopicInfo(topic.partitions or 0, 1_048_588, 1, {}) for topic in app.topics.values()}
    needed = [as_new(topic) for topic in app.topics.values()]
    needed += [wanted.new for wanted in wanted_topics(app.agents.values(), app.topics, known)]
    commands = [
        f"--bootstrap-server kafka:9092 --create --if-not-exists --topic {topic.name} "
        f"--partitions {topic.partitions} --replication-factor {topic.replication or 1}"
        + "".join(f" --config {name}={value}" for name, value in topic.config.items())
        for topic in needed
    ]
    assert ran.stdout.splitlines() == commands
    assert not [topic.name for topic in app.topics.values() if topic.retention or topic.config]


def test_a_topic_that_cannot_be_created_fails_the_step(tmp_path: Path) -> None:
    tool = tmp_path / "kafka-topics.sh"
    tool.write_text('#!/bin/sh\ncase "$*" in *nyc.flights.v1*) exit 1; esac\n')
    tool.chmod(0o755)
    assert subprocess.run(["bash", CREATE_TOPICS, "kafka:9092"], env={"BIN": str(tmp_path)}, check=False).returncode


def test_the_worker_runs_a_command_of_this_checkout() -> None:
    name, *arguments = [*exec_form("ENTRYPOINT"), *WORKER["command"]][1:]
    command = group.commands[name]
    given = command.make_context(name, arguments, parent=Context(group)).params
    loaded = load_app(given["target"])
    assert loaded is app
    assert chosen_agents(loaded, given["agents"]) == list(app.agents.values())
    assert not given["create_topics"]


def test_the_variables_of_the_worker_are_settings() -> None:
    given = WORKER["environment"]
    assert {name.removeprefix(PREFIX).lower() for name in given} <= setting_fields().keys()
    settings = Settings.load({}, given, {})
    assert settings.brokers == ("kafka:9092",)
    assert settings.http == f"0.0.0.0:{WORKER['expose'][0]}"


def test_the_worker_has_time_to_drain_commit_and_leave() -> None:
    settings = Settings.load({}, WORKER["environment"], {})
    assert seconds(WORKER["stop_grace_period"]) >= settings.drain_timeout + settings.request_timeout + 15


def test_the_worker_can_be_started_several_times() -> None:
    assert "ports" not in WORKER
    assert "container_name" not in WORKER


def test_the_worker_has_no_rights_that_it_does_not_need() -> None:
    assert (WORKER["read_only"], WORKER["cap_drop"]) == (True, ["ALL"])
    assert WORKER["security_opt"] == ["no-new-privileges:true"]


def test_a_worker_that_fails_is_not_started_for_ever() -> None:
    assert re.fullmatch(r"on-failure:\d+", WORKER["restart"])


def test_the_worker_is_asked_the_health_check_of_its_image() -> None:
    assert WORKER["healthcheck"]["test"] == ["CMD", *exec_form("HEALTHCHECK")]


def test_prometheus_reads_the_config_and_the_rules_that_are_checked() -> None:
    flag = next(flag for flag in SERVICES["prometheus"]["command"] if flag.startswith("--config.file="))
    inside = PurePosixPath(flag.partition("=")[2])
    mounted = f"./{PROMETHEUS_CONFIG.relative_to(ROOT)}:{inside}:ro"
    assert mounted in SERVICES["prometheus"]["volumes"]
    for pattern in yaml.safe_load(PROMETHEUS_CONFIG.read_text())["rule_files"]:
        folder = PurePosixPath(pattern).parent
        assert list(PROMETHEUS_CONFIG.parent.glob(pattern))
        assert (
            f"./{PROMETHEUS_CONFIG.parent.relative_to(ROOT) / folder}:{inside.parent / folder}:ro"
            in (SERVICES["prometheus"]["volumes"])
        )


def test_who_comes_to_grafana_may_look_and_nobody_can_log_in() -> None:
    given = SERVICES["grafana"]["environment"]
    assert (given["GF_AUTH_ANONYMOUS_ENABLED"], given["GF_AUTH_ANONYMOUS_ORG_ROLE"]) == ("true", "Viewer")
    assert (given["GF_AUTH_BASIC_ENABLED"], given["GF_AUTH_DISABLE_LOGIN_FORM"]) == ("false", "true")
    assert given["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert all(volume.endswith(":ro") for volume in SERVICES["grafana"]["volumes"])


def test_the_deployment_for_kubernetes_is_the_same_in_its_own_words() -> None:
    (text,) = re.findall(r"```yaml\n(apiVersion: .*?)```", (ROOT / "docs/deployment.md").read_text(), re.DOTALL)
    pod = yaml.safe_load(text)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    variables = {each["name"]: each["value"] for each in container["env"]}
    assert Settings.load({}, variables, {}).brokers == ("kafka-0.kafka:9092", "kafka-1.kafka:9092")
    assert container["args"] == WORKER["command"]
    assert pod["terminationGracePeriodSeconds"] == seconds(WORKER["stop_grace_period"])
    assert [str(port["containerPort"]) for port in container["ports"]] == WORKER["expose"]
    probes = {probe: container[probe]["httpGet"]["path"] for probe in ("livenessProbe", "readinessProbe")}
    assert probes == {"livenessProbe": "/livez", "readinessProbe": "/readyz"}
