import dataclasses
from datetime import timedelta
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from docs.settings import GROUPS, PAGE, render
from streamkit.errors import ConfigurationError
from streamkit.secrets import Secret
from streamkit.settings import PREFIX, Settings, SettingValue, check_app_settings, setting_fields, without_security

SECRETS = ("sasl_password", "ssl_key_password", "sasl_oauth_token")
PASSWORD = "sesame-4711"
LOGIN: dict[str, SettingValue] = {
    "security_protocol": "SASL_SSL",
    "sasl_mechanism": "SCRAM-SHA-512",
    "sasl_username": "ann",
    "sasl_password": PASSWORD,
}
TLS: dict[str, SettingValue] = {"security_protocol": "SSL"}


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
        ("fetch_max_wait", "250ms", 0.25),
        ("allow_plaintext_password", "true", True),
        ("allow_plaintext_password", "false", False),
        ("breaker_failures", "0", 0),
        ("breaker_keys", "1", 1),
        ("breaker_ratio", "0.25", 0.25),
        ("breaker_ratio", "1", 1.0),
        ("breaker_window", "1m", 60.0),
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
        ("breaker_ratio", 0.01, 0.01),
        ("breaker_ratio", 1, 1.0),
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
        ("security_protocol", "ssl"),
        ("sasl_mechanism", "GSSAPI"),
        ("ssl_check_hostname", "no"),
        ("breaker_failures", "-1"),
        ("breaker_keys", "0"),
        ("breaker_window", "0s"),
        ("breaker_ratio", "0"),
        ("breaker_ratio", "0.0"),
        ("breaker_ratio", "-0.5"),
        ("breaker_ratio", "1.01"),
        ("breaker_ratio", "50%"),
        ("breaker_ratio", "nan"),
        ("breaker_ratio", "inf"),
        ("breaker_ratio", "1e-1"),
    ],
)
def test_bad_values_are_refused_by_name(name: str, text: str) -> None:
    variable = PREFIX + name.upper()
    assert refusal(environ={variable: text}).startswith(f"{variable}={text!r} (environment): ")


@pytest.mark.parametrize("value", [True, 1.5, b"x", [], [1]])
@pytest.mark.parametrize("name", list(setting_fields()))
def test_values_of_other_types_are_refused_by_name(name: str, value: SettingValue) -> None:
    if value is True and type(setting_fields()[name].default) is bool:
        return
    shown = "***" if name in SECRETS else repr(value)
    assert refusal(app={name: value}).startswith(f"{name}={shown} (App(...)): ")


@pytest.mark.parametrize("value", [0, -1, 2, 10**400, float("nan"), float("inf"), 1.0000001])
def test_a_ratio_is_a_part_of_a_whole(value: float) -> None:
    assert refusal(app={"breaker_ratio": value}).endswith(": must be more than 0 and at most 1")


def test_a_request_must_end_before_the_session_does() -> None:
    assert refusal(environ={"STREAMKIT_REQUEST_TIMEOUT": "45s"}) == (
        "request_timeout=45s (environment) must be less than session_timeout=45s (default)"
    )


def test_a_session_takes_at_least_three_heartbeats() -> None:
    message = refusal(app={"session_timeout": "6s", "request_timeout": "5s"})
    assert message == "heartbeat_interval=3s (default) must be at most a third of session_timeout=6s (App(...))"


def test_the_window_holds_at_least_what_may_be_unsettled() -> None:
    assert "must be at most window=100 (App(...))" in refusal(app={"window": 100})


def test_one_partition_takes_no_more_than_a_whole_answer() -> None:
    assert refusal(app={"fetch_max_bytes": "512KiB"}) == (
        "max_partition_fetch_bytes=1MiB (default) must be at most fetch_max_bytes=512KiB (App(...))"
    )


def test_a_broker_answers_before_the_request_is_given_up() -> None:
    assert refusal(app={"fetch_max_wait": "20s"}).endswith("must be less than request_timeout=20s (default)")


def given(*parts: dict[str, SettingValue], **more: SettingValue) -> dict[str, SettingValue]:
    """What is None is left out."""
    merged = {name: value for part in (*parts, more) for name, value in part.items()}
    return {name: value for name, value in merged.items() if value is not None}


@pytest.mark.parametrize(
    ("app", "message"),
    [
        (given(LOGIN, sasl_mechanism=None), "security_protocol=SASL_SSL (App(...)) needs sasl_mechanism"),
        (given(LOGIN, sasl_username=None), "sasl_mechanism=SCRAM-SHA-512 (App(...)) needs sasl_username"),
        (given(LOGIN, sasl_password=None), "sasl_mechanism=SCRAM-SHA-512 (App(...)) needs sasl_password"),
        (given(LOGIN, security_protocol="SSL"), "sasl_mechanism=SCRAM-SHA-512 (App(...)) has no effect with"),
        (given(sasl_password=PASSWORD), "sasl_password=*** (App(...)) has no effect with security_protocol=PLAINTEXT"),
        (
            given(LOGIN, sasl_mechanism="OAUTHBEARER", sasl_username=None, sasl_password=None),
            "sasl_mechanism=OAUTHBEARER (App(...)) needs a function that returns a token: App(sasl_oauth_token=...)",
        ),
        (
            given(LOGIN, sasl_mechanism="OAUTHBEARER", sasl_oauth_token=str),
            "sasl_username=ann (App(...)) has no effect with sasl_mechanism=OAUTHBEARER",
        ),
        (given(LOGIN, sasl_oauth_token=str), "sasl_oauth_token=*** (App(...)) has no effect with sasl_mechanism=SCRAM"),
        (given(ssl_cafile="ca.pem"), "set security_protocol=SSL, or leave it out"),
        (given(LOGIN, security_protocol="SASL_PLAINTEXT", ssl_cafile="ca.pem"), "set security_protocol=SASL_SSL, or"),
        (given(TLS, ssl_certfile="a.pem"), "ssl_certfile=a.pem (App(...)) needs ssl_keyfile"),
        (given(TLS, ssl_keyfile="a.pem"), "ssl_keyfile=a.pem (App(...)) needs ssl_certfile"),
        (given(TLS, ssl_key_password=PASSWORD), "ssl_key_password=*** (App(...)) needs ssl_keyfile"),
    ],
)
def test_settings_of_security_that_do_not_go_together_are_refused(app: dict[str, SettingValue], message: str) -> None:
    assert message in refusal(app=app)


@pytest.mark.parametrize("brokers", ["kafka:9092", "localhost:9092,10.0.0.1:9092", "[fd00::1]:9092"])
def test_a_login_in_the_open_to_another_machine_must_be_allowed_by_name(brokers: str) -> None:
    app = given(LOGIN, security_protocol="SASL_PLAINTEXT", brokers=brokers)
    assert "allow_plaintext_password=true" in refusal(app=app)
    assert load(app=given(app, allow_plaintext_password=True))


@pytest.mark.parametrize("brokers", ["localhost:9092", "127.0.0.1:9092,127.1.2.3", "[::1]:9092", "memory://x"])
def test_a_login_in_the_open_may_go_to_this_machine(brokers: str) -> None:
    assert load(app=given(LOGIN, security_protocol="SASL_PLAINTEXT", brokers=brokers))


def test_a_password_shows_nowhere_in_settings() -> None:
    settings = load(app=LOGIN)
    for text in (repr(settings), str(settings), f"{settings}"):
        assert PASSWORD not in text
    assert settings.shown("sasl_password") == "sasl_password=*** (App(...))"
    assert settings.sasl_password is not None
    assert settings.sasl_password.reveal() == PASSWORD


def test_a_secret_that_is_refused_is_not_shown() -> None:
    assert refusal(environ={"STREAMKIT_SASL_OAUTH_TOKEN": PASSWORD}).startswith(
        "STREAMKIT_SASL_OAUTH_TOKEN=*** (environment): must be a function"
    )


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_not_taken_from_the_command_line(name: str) -> None:
    message = refusal({name: PASSWORD})
    assert message.startswith("--" + name.replace("_", "-") + ": secrets are not taken from the command line")
    assert PASSWORD not in message


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    file.chmod(0o600)
    return file


def test_a_secret_is_read_from_a_file(password_file: Path) -> None:
    settings = load(environ={"STREAMKIT_SASL_PASSWORD_FILE": str(password_file)}, app=given(LOGIN, sasl_password=None))
    assert settings.sasl_password == Secret(PASSWORD)
    assert settings.sources["sasl_password"] == "environment"
    assert load(app=given(LOGIN, sasl_password=None, sasl_password_file=password_file)).sasl_password


def test_a_secret_and_its_file_in_one_place_are_refused(password_file: Path) -> None:
    assert refusal(app=given(LOGIN, sasl_password_file=password_file)) == (
        "sasl_password and sasl_password_file are both given (App(...)); give one of them"
    )


def test_a_secret_or_its_file_wins_by_where_it_was_given(password_file: Path) -> None:
    app = given(LOGIN, sasl_password="other")
    assert load(environ={"STREAMKIT_SASL_PASSWORD_FILE": str(password_file)}, app=app).sasl_password == Secret(PASSWORD)
    app = given(LOGIN, sasl_password=None, sasl_password_file="nowhere")
    settings = load(environ={"STREAMKIT_SASL_PASSWORD": "other"}, app=app)
    assert (settings.sasl_password, settings.sasl_password_file) == (Secret("other"), None)


def test_a_file_that_cannot_be_used_is_named_with_the_reason(tmp_path: Path, password_file: Path) -> None:
    password_file.chmod(0o644)
    variable = "STREAMKIT_SASL_PASSWORD_FILE"
    assert refusal(environ={variable: str(password_file)}) == (
        f"sasl_password_file='{password_file}' (environment): every user of this machine may read the file (its mode "
        "is 0644); take that away, as with chmod o-r"
    )
    assert "(environment): the file cannot be read: No such file" in refusal(environ={variable: str(tmp_path / "x")})
    assert "(environment): the file cannot be read: Is a directory" in refusal(environ={variable: str(tmp_path)})


def test_a_file_is_not_read_before_the_worker_starts() -> None:
    check_app_settings(given(LOGIN, sasl_password=None, sasl_password_file="nowhere"))


def test_what_is_about_security_can_be_left_out() -> None:
    assert without_security(given(LOGIN, brokers="a:1")) == {"brokers": "a:1"}
    variables = {"STREAMKIT_SASL_PASSWORD": "x", "STREAMKIT_SSL_CAFILE": "y", "STREAMKIT_LINGER": "1ms", "PATH": "/bin"}
    assert without_security(variables) == {"STREAMKIT_LINGER": "1ms", "PATH": "/bin"}


def test_every_setting_is_in_a_group_of_the_page() -> None:
    assert {item.metadata["group"] for item in setting_fields().values()} == set(GROUPS)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().linger = 1.0  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


@hypothesis.settings(deadline=None)  # it is about what is refused, and not about time
@hypothesis.given(st.text())
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
