"""What may be declared of timers, the lifespan and reports, and what is refused at import."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from streamkit import App, DeclarationError


def test_a_timer_stays_the_function_that_it_was() -> None:
    app = App("shop")

    @app.timer("30s")
    async def beat() -> None: ...

    @app.timer("1h", name="hourly")
    async def other(times: int = 1) -> None: ...

    assert asyncio.run(beat()) is None
    assert {(timer.name, timer.every) for timer in app.timers.values()} == {("beat", 30.0), ("hourly", 3600.0)}
    assert app.timers["beat"].function is beat


def test_timers_that_cannot_be_are_refused() -> None:
    app = App("shop")

    def plain() -> None: ...
    async def needy(order: str) -> None: ...
    async def beat() -> None: ...

    app.timer("1s")(beat)
    wrong: list[tuple[Any, str, str]] = [
        (plain, "1s", "timer 'plain': it is not async. Declare it with `async def`"),
        (needy, "1s", "timer 'needy': it is called without arguments, and 'order' would be missing"),
        (beat, "1s", "timer 'beat' is declared twice in app 'shop'; give one another name="),
        (beat, "30", "App.timer: '30': not a duration"),
        (beat, "0s", "App.timer: '0s': must be more than 0"),
    ]
    for function, every, says in wrong:
        with pytest.raises(DeclarationError) as caught:
            app.timer(every)(function)
        assert str(caught.value).startswith(says)


def test_a_lifespan_is_a_context_manager() -> None:
    @asynccontextmanager
    async def good(app: App) -> AsyncIterator[None]:
        yield

    async def bare(app: App) -> AsyncIterator[None]:
        yield

    async def coroutine(app: App) -> None: ...

    assert App("shop", lifespan=good).lifespan is good
    wrong: list[tuple[Any, str]] = [
        (bare, "App, lifespan: decorate bare with contextlib.asynccontextmanager"),
        (coroutine, "App, lifespan: decorate coroutine with contextlib.asynccontextmanager"),
        (5, "App, lifespan: 5 is not a function that takes the app and returns an async context manager"),
    ]
    for lifespan, says in wrong:
        with pytest.raises(DeclarationError) as caught:
            App("shop", lifespan=lifespan)
        assert str(caught.value) == says


def test_on_error_is_a_plain_function() -> None:
    async def report(error: BaseException, record: object) -> None: ...

    assert App("shop", on_error=print).on_error is print
    for wrong in (report, "print"):
        with pytest.raises(DeclarationError) as caught:
            App("shop", on_error=wrong)  # type: ignore[arg-type]
        assert str(caught.value).startswith("App, on_error: a plain function of the error and the record is needed")
