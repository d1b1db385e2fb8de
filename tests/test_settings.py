import dataclasses
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docs.settings import PAGE, render
from streamkit.errors import ConfigurationError
from streamkit.settings import PREFIX, Settings, SettingValue, setting_fields


def load(
    command_line: dict[str, SettingValue] | None = None,
    environ: dict[str, str] | None = None,
    app: dict[str, SettingValue] | None = None,
) -> Settings:
    return Settings.load(command_line or {}, environ or {}, app or {})


def refusal(
    command_line: dict[str, SettingValue] | None = None,
    environ: dict[str, str] | None = None,
    app: dict[str, SettingValue] | None = None,
) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(command_line, environ, app)
    return str(caught.value)


def test_without_anything_the_defaults_hold() -> None:
    settings = load()
    assert settings == Settings()
    assert settings.brokers == ("localhost:9092",)
    assert settings.http == "127.0.0.1:9464"
    assert settings.is_default("http")


def test_the_command_line_wins_over_the_environment_over_the_app_over_the_defaults() -> None:
    command_line: dict[str, SettingValue] = {"commit_records": "3"}
    environ = {"STREAMKIT_COMMIT_RECORDS": "2", "STREAMKIT_COMMIT_INTERVAL": "2s"}
    app: dict[str, SettingValue] = {"commit_records": 1, "commit_interval": "1m", "linger": "1ms"}
    settings = load(command_line, environ, app)
    assert (settings.commit_records, settings.commit_interval, settings.linger) == (3, 2.0, 0.001)
    assert dict(settings.sources) == {
        "commit_records": "command line",
        "commit_interval": "environment",
        "linger": "App(...)",
    }


def test_what_is_not_given_on_the_command_line_does_not_count() -> None:
    assert load({"brokers": None}, {"STREAMKIT_BROKERS": "a:1"}).brokers == ("a:1",)


def test_an_empty_variable_counts_as_unset() -> None:
    assert load(environ={"STREAMKIT_BROKERS": ""}).is_default("brokers")


def test_other_variables_are_none_of_our_business() -> None:
    assert load(environ={"PATH": "/bin", "STREAMKIT_TEST_BROKERS": "a:1"}) == Settings()


def test_a_bad_value_names_the_setting_the_value_and_where_it_came_from() -> None:
    assert refusal(environ={"STREAMKIT_COMMIT_INTERVAL": "5x"}).startswith(
        "STREAMKIT_COMMIT_INTERVAL='5x' (environment): not a duration: write"
    )
    assert refusal({"commit_interval": "5x"}).startswith("--commit-interval='5x' (command line): not a duration")
    assert refusal(app={"commit_interval": "5x"}).startswith("commit_interval='5x' (App(...)): not a duration")


def test_an_unknown_variable_is_refused_with_the_nearest_one() -> None:
    assert refusal(environ={"STREAMKIT_BROKER": "a:1"}) == (
        "STREAMKIT_BROKER (environment): no such setting; did you mean STREAMKIT_BROKERS?"
    )


def test_an_unknown_argument_of_the_app_is_refused_with_the_nearest_one() -> None:
    assert refusal(app={"drain_timout": "1s"}).endswith("no such setting; did you mean drain_timeout?")
    assert refusal(app={"xyzzy": "1s"}).endswith("no such setting; docs/settings.md lists them")


def test_sources_is_not_a_setting() -> None:
    assert "no such setting" in refusal(app={"sources": "x"})


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("brokers", "a:1, b", ("a:1", "b:9092")),
        ("brokers", "[::1]:9092", ("[::1]:9092",)),
        ("brokers", "memory://", ("memory://",)),
        ("http", "off", "off"),
        ("http", "0.0.0.0:80", "0.0.0.0:80"),
        ("max_bytes", "1GiB", 2**30),
        ("max_bytes", "65_536", 65_536),
        ("commit_records", "10_000", 10_000),
        ("linger", "0s", 0.0),
        ("compression", "zstd", "zstd"),
        ("stop_when_idle", "3s", 3.0),
    ],
)
def test_values_are_read_from_text(name: str, text: str, value: object) -> None:
    assert getattr(load(environ={PREFIX + name.upper(): text}), name) == value


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("brokers", ["a:1", "b:2"], ("a:1", "b:2")),
        ("commit_interval", timedelta(seconds=2), 2.0),
        ("max_bytes", 4_096, 4_096),
    ],
)
def test_the_app_may_give_python_values(name: str, value: SettingValue, field: object) -> None:
    assert getattr(load(app={name: value}), name) == field


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("brokers", ","),
        ("brokers", "a:b"),
        ("brokers", "a:99999"),
        ("http", "9464"),
        ("http", "localhost"),
        ("commit_records", "0"),
        ("commit_records", "1.5"),
        ("commit_records", "many"),
        ("max_bytes", "1MB"),
        ("max_bytes", "0"),
        ("max_bytes", "-1"),
        ("commit_interval", "0s"),
        ("commit_interval", "1"),
        ("compression", "brotli"),
        ("log_format", "xml"),
    ],
)
def test_bad_values_are_refused_by_name(name: str, text: str) -> None:
    variable = PREFIX + name.upper()
    assert refusal(environ={variable: text}).startswith(f"{variable}={text!r} (environment): ")


@pytest.mark.parametrize("value", [True, 1.5, b"x", [], [1]])
@pytest.mark.parametrize("name", list(setting_fields()))
def test_values_of_other_types_are_refused_by_name(name: str, value: SettingValue) -> None:
    assert refusal(app={name: value}).startswith(f"{name}={value!r} (App(...)): ")


def test_a_request_must_end_before_the_session_does() -> None:
    assert refusal(environ={"STREAMKIT_REQUEST_TIMEOUT": "45s"}) == (
        "request_timeout=45s (environment) must be less than session_timeout=45s (default)"
    )


def test_a_session_takes_at_least_three_heartbeats() -> None:
    message = refusal(app={"session_timeout": "6s", "request_timeout": "5s"})
    assert message == "heartbeat_interval=3s (default) must be at most a third of session_timeout=6s (App(...))"


def test_the_window_holds_at_least_what_may_be_unsettled() -> None:
    assert "must be at most window=100 (App(...))" in refusal(app={"window": 100})


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().linger = 1.0  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


@given(st.text())
def test_any_text_is_read_or_refused_as_configuration(text: str) -> None:
    for name in setting_fields():
        try:
            load(app={name: text})
        except ConfigurationError as error:
            assert name in str(error)


@pytest.mark.parametrize("name", list(setting_fields()))
def test_a_default_that_is_shown_reads_back(name: str) -> None:
    item = setting_fields()[name]
    if shown := item.metadata["show"](item.default):
        assert item.metadata["parse"](shown) == item.default


def test_the_page_of_settings_is_true() -> None:
    assert PAGE.read_text() == render(), "run python docs/settings.py"
