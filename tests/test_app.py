import subprocess
import sys
from typing import Any

import pytest

from streamkit import App, ConfigurationError, DeclarationError, Record, Settings


async def nothing(value: str) -> None: ...


def test_importing_streamkit_loads_no_client_server_or_model_library() -> None:
    heavy = ("aiokafka", "aiohttp", "prometheus_client", "faust", "pydantic", "structlog", "rich", "click")
    program = f"import sys, streamkit; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_everything_that_is_declared_is_listed() -> None:
    app = App("shop")
    orders = app.topic("orders", value=str)
    agent = app.agent(orders)(nothing)
    assert dict(app.topics) == {"orders": orders}
    assert dict(app.agents) == {"nothing": agent}


@pytest.mark.parametrize("name", ["", "a b", "a/b", "é", "a" * 250])
def test_a_name_must_be_fit_for_topics_and_groups(name: str) -> None:
    with pytest.raises(DeclarationError, match="is not a name"):
        App(name)
    with pytest.raises(DeclarationError, match="is not a name"):
        App("shop").topic(name, value=str)


@pytest.mark.parametrize("name", [".", "..", "__consumer_offsets"])
def test_kafkas_own_topics_are_refused(name: str) -> None:
    with pytest.raises(DeclarationError, match="is reserved"):
        App("shop").topic(name, value=str)


def test_a_topic_may_be_declared_again_in_the_same_way() -> None:
    app = App("shop")
    assert app.topic("orders", value=str, retention="7d") is app.topic("orders", value=str, retention="168h")


@pytest.mark.parametrize(
    "again", [{"value": bytes}, {"value": str, "key": int}, {"value": str, "partitions": 3}], ids=str
)
def test_a_topic_declared_again_in_another_way_is_refused(again: dict[str, Any]) -> None:
    app = App("shop")
    app.topic("orders", value=str)
    with pytest.raises(DeclarationError, match="topic 'orders' is declared twice"):
        app.topic("orders", **again)


def test_a_topics_retention_is_held_in_seconds() -> None:
    assert App("shop").topic("orders", value=str, retention="2h").retention == 7_200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"value": object(), "key": str}, "topic 'orders', value: "),
        ({"value": str, "key": float}, "topic 'orders', key: keys may be str, bytes, int or UUID"),
        ({"value": str, "partitions": 0}, "topic 'orders', partitions: 0 is not a whole number"),
        ({"value": str, "replication": True}, "topic 'orders', replication: True is not a whole number"),
        ({"value": str, "retention": "7"}, "topic 'orders', retention: '7': not a duration"),
        ({"value": str, "codec": str}, "topic 'orders', codec: <class 'str'> is a class; give an object"),
        ({"value": str, "codec": "json"}, "topic 'orders', codec: 'json' has no method decode"),
    ],
)
def test_a_bad_argument_of_a_topic_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        App("shop").topic("orders", **arguments)
    assert str(caught.value).startswith(message)


def test_two_agents_of_one_name_are_refused() -> None:
    app = App("shop")
    app.agent(app.topic("orders", value=str))(nothing)
    with pytest.raises(DeclarationError, match="agent 'nothing' is declared twice"):
        app.agent(app.topic("bills", value=str))(nothing)


def test_two_agents_of_one_group_are_refused() -> None:
    app = App("shop")
    orders = app.topic("orders", value=str)
    app.agent(orders, name="first", group="shared")(nothing)
    with pytest.raises(DeclarationError, match="'shared' is the group of agent 'first' already"):
        app.agent(orders, name="second", group="shared")(nothing)


def test_a_refused_agent_is_not_declared() -> None:
    app = App("shop")
    with pytest.raises(DeclarationError):
        app.agent(app.topic("numbers", value=int))(nothing)  # type: ignore[arg-type]
    assert not app.agents


def test_a_topic_of_another_app_is_refused() -> None:
    app, other = App("shop"), App("other")
    with pytest.raises(DeclarationError, match="was declared by another app"):
        app.agent(other.topic("orders", value=str))(nothing)


def test_a_bad_setting_is_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match=r"commit_interval='often' \(App\(...\)\): not a duration"):
        App("shop", commit_interval="often")
    with pytest.raises(ConfigurationError, match="did you mean drain_timeout"):
        App("shop", drain_timout="1s")


def test_the_apps_settings_are_the_weakest() -> None:
    app = App("shop", brokers="a:1", linger="1ms")
    assert app.settings({}, {"STREAMKIT_BROKERS": "b:2"}) == Settings(brokers=("b:2",), linger=0.001)


def test_an_agent_is_called_as_its_handler_is() -> None:
    app = App("shop")

    @app.agent(app.topic("orders", value=str))
    async def shout(record: Record[str, str]) -> None: ...

    assert shout.handler is not shout
    coroutine = shout(Record("k", "v"))
    coroutine.close()


def test_a_password_given_to_the_app_shows_nowhere() -> None:
    app = App("shop", security_protocol="SASL_SSL", sasl_mechanism="PLAIN", sasl_username="u", sasl_password="hunter2")
    assert "hunter2" not in repr(dict(app.given_settings))
    settings = app.settings({}, {})
    assert settings.sasl_password is not None
    assert settings.sasl_password.reveal() == "hunter2"
