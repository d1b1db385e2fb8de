"""The app: what a program declares. It runs nothing; `streamkit worker` does."""

import inspect
import sys
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar, final, overload

from typing_extensions import TypeForm

from streamkit.agent import (
    Agent,
    OfBatches,
    OfBatchesWithSink,
    OnGap,
    OrderBy,
    StartFrom,
    WithoutSink,
    WithRekeyedSink,
    WithSink,
)
from streamkit.batch import Batch
from streamkit.checks import one_of, optional, positive, seconds, valid_name, valid_topic_name
from streamkit.codec import Codec, check_codec, codec_for, key_codec_for
from streamkit.durations import Duration
from streamkit.errors import DeclarationError
from streamkit.record import UNSET, Record
from streamkit.retry import Retry
from streamkit.settings import Settings, SettingValue, check_app_settings, hidden
from streamkit.shapes import Ends, Shape, check_shape, read_signature
from streamkit.timer import Timer
from streamkit.topic import PortHolder, Topic
from streamkit.topic_names import Claim, DeadLetter, TopicNames, brought, dead_letters, declared

if TYPE_CHECKING:
    from streamkit.testing import AppUnderTest

T = TypeVar("T", bound=Callable[[], Awaitable[None]])
K = TypeVar("K")
V = TypeVar("V")
O = TypeVar("O")  # noqa: E741


@final
class App:
    """Topics and agents under one name.

    `lifespan` is an async context manager around the work of a worker, called with the app: entered before the agents
    begin and left after they have ended; what it yields is `app.state`. `on_error` is called with each error that stops
    the worker or makes a dead letter, and the record that it happened on, if any; it must not be async, and is for
    reporting: what it raises is logged.

    `brokers` and any other setting of docs/settings.md may be given here; the environment and the command line win over
    them. Raises ConfigurationError for a setting that does not exist or has a bad value.
    """

    def __init__(
        self,
        name: str,
        *,
        lifespan: Callable[["App"], AbstractAsyncContextManager[Any]] | None = None,
        on_error: Callable[[BaseException, Record[Any, Any] | None], object] | None = None,
        brokers: str | Sequence[str] | None = None,
        **settings: SettingValue,
    ) -> None:
        self.name = valid_name("app", name)
        self.lifespan = optional(_valid_lifespan, "App, lifespan", lifespan)
        self.on_error = optional(_valid_on_error, "App, on_error", on_error)
        self.given_settings: Mapping[str, SettingValue] = MappingProxyType(hidden({"brokers": brokers, **settings}))
        check_app_settings(self.given_settings)
        self.port = PortHolder()
        self._topics: dict[str, Topic[Any, Any]] = {}
        self._agents: dict[str, Agent[Any, Any]] = {}
        self._timers: dict[str, Timer] = {}
        self._names = TopicNames()

    @property
    def state(self) -> Any:
        """What the lifespan has yielded. Raises RuntimeError while no worker runs in this process."""
        if self.port.state is UNSET:
            raise RuntimeError(f"app {self.name!r} has no state: no worker of it is running in this process")
        return self.port.state

    @property
    def topics(self) -> Mapping[str, Topic[Any, Any]]:
        """The declared topics by name."""
        return MappingProxyType(self._topics)

    @property
    def agents(self) -> Mapping[str, Agent[Any, Any]]:
        """The declared agents by name."""
        return MappingProxyType(self._agents)

    @property
    def timers(self) -> Mapping[str, Timer]:
        """The declared timers by name."""
        return MappingProxyType(self._timers)

    def settings(self, command_line: Mapping[str, SettingValue], environ: Mapping[str, str]) -> Settings:
        """The settings of a worker of this app. Raises ConfigurationError; see `Settings.load`."""
        return Settings.load(command_line, environ, self.given_settings)

    @overload
    def topic(
        self,
        name: str,
        *,
        value: TypeForm[V],
        key: TypeForm[K],
        codec: Codec[V] | None = None,
        partitions: int | None = None,
        replication: int | None = None,
        retention: Duration | None = None,
        config: Mapping[str, str] = MappingProxyType({}),
    ) -> Topic[K, V]: ...
    @overload
    def topic(
        self,
        name: str,
        *,
        value: TypeForm[V],
        codec: Codec[V] | None = None,
        partitions: int | None = None,
        replication: int | None = None,
        retention: Duration | None = None,
        config: Mapping[str, str] = MappingProxyType({}),
    ) -> Topic[str, V]: ...
    def topic(
        self,
        name: str,
        *,
        value: Any,
        key: Any = str,
        codec: Codec[Any] | None = None,
        partitions: int | None = None,
        replication: int | None = None,
        retention: Duration | None = None,
        config: Mapping[str, str] = MappingProxyType({}),
    ) -> Topic[Any, Any]:
        """Declare a topic.

        Values are JSON of dict, Any, a dataclass, an attrs class, a msgspec.Struct, a TypedDict or a pydantic model; or
        a faust.Record in the form that Faust writes; or `str` (UTF-8) or `bytes`. `codec` overrides; it must not be
        async. Keys are str, bytes, int (decimal) or UUID. With `value=Order | None` a null value (tombstone) is read as
        None. `partitions`, `replication`, `retention` and `config` are for `--create-topics`. See docs/types.md.

        The same topic may be declared again with the same arguments. Raises DeclarationError otherwise, and for a name
        or a type that cannot be.
        """
        label = f"topic {name!r}"
        if codec is not None:
            _declared(f"{label}, codec", check_codec, codec)
        topic: Topic[Any, Any] = Topic(
            name=valid_topic_name(name),
            key_type=key,
            value_type=value,
            key_codec=_declared(f"{label}, key", key_codec_for, key),
            value_codec=_declared(f"{label}, value", codec_for, value, codec),
            partitions=optional(positive, f"{label}, partitions", partitions),
            replication=optional(positive, f"{label}, replication", replication),
            retention=optional(seconds, f"{label}, retention", retention),
            config=MappingProxyType(dict(config)),
            codec=codec,
            app_port=self.port,
        )
        self._names.claim(declared(name))
        known = self._topics.setdefault(name, topic)
        if known is not topic:
            _same_declaration(known, topic)
        return known

    @overload
    def agent(
        self,
        topic: Topic[K, V],
        *topics: Topic[K, V],
        batch: Batch,
        sink: Topic[Any, O],
        name: str | None = None,
        group: str | None = None,
        concurrency: int | None = None,
        retry: Retry | None = None,
        dead_letter: DeadLetter | None = None,
        timeout: Duration | None = None,
        start_from: StartFrom = "earliest",
        on_gap: OnGap = "stop",
    ) -> OfBatchesWithSink[K, V, O]: ...
    @overload
    def agent(
        self,
        topic: Topic[K, V],
        *topics: Topic[K, V],
        batch: Batch,
        name: str | None = None,
        group: str | None = None,
        concurrency: int | None = None,
        retry: Retry | None = None,
        dead_letter: DeadLetter | None = None,
        timeout: Duration | None = None,
        start_from: StartFrom = "earliest",
        on_gap: OnGap = "stop",
    ) -> OfBatches[K, V]: ...
    @overload
    def agent(  # pyright: ignore[reportOverlappingOverload]
        self,
        topic: Topic[K, V],
        *topics: Topic[K, V],
        sink: Topic[K, O],
        name: str | None = None,
        group: str | None = None,
        concurrency: int | None = None,
        order_by: OrderBy | Callable[[Record[K, V]], Hashable] | None = None,
        retry: Retry | None = None,
        dead_letter: DeadLetter | None = None,
        timeout: Duration | None = None,
        start_from: StartFrom = "earliest",
        on_gap: OnGap = "stop",
    ) -> WithSink[K, V, O]: ...
    @overload
    def agent(
        self,
        topic: Topic[K, V],
        *topics: Topic[K, V],
        sink: Topic[Any, O],
        name: str | None = None,
        group: str | None = None,
        concurrency: int | None = None,
        order_by: OrderBy | Callable[[Record[K, V]], Hashable] | None = None,
        retry: Retry | None = None,
        dead_letter: DeadLetter | None = None,
        timeout: Duration | None = None,
        start_from: StartFrom = "earliest",
        on_gap: OnGap = "stop",
    ) -> WithRekeyedSink[K, V, O]: ...
    @overload
    def agent(
        self,
        topic: Topic[K, V],
        *topics: Topic[K, V],
        name: str | None = None,
        group: str | None = None,
        concurrency: int | None = None,
        order_by: OrderBy | Callable[[Record[K, V]], Hashable] | None = None,
        retry: Retry | None = None,
        dead_letter: DeadLetter | None = None,
        timeout: Duration | None = None,
        start_from: StartFrom = "earliest",
        on_gap: OnGap = "stop",
    ) -> WithoutSink[K, V]: ...
    def agent(
        self,
        topic: Topic[Any, Any],
        *topics: Topic[Any, Any],
        sink: Topic[Any, Any] | None = None,
        batch: Batch | None = None,
        name: str | None = None,
        group: str | None = None,
        concurrency: int | None = None,
        order_by: OrderBy | Callable[[Record[Any, Any]], Hashable] | None = None,
        retry: Retry | None = None,
        dead_letter: DeadLetter | None = None,
        timeout: Duration | None = None,
        start_from: StartFrom = "earliest",
        on_gap: OnGap = "stop",
    ) -> Any:
        """Declare an agent: the decorated async function handles the topic's records.

        What it takes tells how it is called: the value; the whole `Record[K, V]`; with `batch=` a list of either; or a
        `Stream` of either, a loop over the records of one partition, in which asking for the next one states that the
        one before is handled. Several topics must have the same types; there is no order between them.

        What it returns (or yields, any number) goes to `sink` under the record's key, None is not sent; a batch returns
        an iterable of `Output`, which state their keys. Up to `concurrency` records or batches (default 1) are handled
        at a time, in order within a key, or as `order_by` says: "key", "partition", "none", or a function of the
        record. Batches and loops go by partition: neither applies to loops, and `order_by` does not to batches.

        A record that fails is tried again as `retry` says; what has failed for good goes to the dead letter topic. That
        is there if `retry` has tiers, and is `<topic>.dlq`; `dead_letter` decides otherwise: True, False, or the topic
        or its name. Without one, a record that has failed for good stops the worker.

        A handler that takes longer than `timeout` for a record or batch is cancelled and has failed. `start_from`
        counts when the group has never committed; `on_gap` says what to do when records were lost before they were
        read. The group is `<app>.<agent>` unless given; the agent's name is the function's unless given.

        Raises DeclarationError, naming agent and parameter, if handler and topics do not fit.
        """
        for each in (topic, *topics):
            _check_topic("topic", each)
        if sink is not None:
            _check_topic("sink", sink)
        if batch is not None and not isinstance(batch, Batch):
            raise DeclarationError(
                f'App.agent, batch: {batch!r} is not a Batch; write batch=Batch(500, within="200ms")'
            )
        scope = sys._getframe(1).f_locals  # for types that are local to the place of the declaration

        def declare(handler: Callable[[Any], Any]) -> Agent[Any, Any]:
            agent_name = valid_name("agent", name or _handler_name(handler))
            label = f"agent {agent_name!r}"
            signature = read_signature(agent_name, handler, scope)
            shape, item = check_shape(signature, _ends(topic, sink), batch=batch is not None)
            _check_applies(label, shape, concurrency=concurrency, order_by=order_by)
            sources = _of_one_type(label, [self._own(f"{label}, topic", each) for each in (topic, *topics)])
            if isinstance(dead_letter, Topic):
                self._own(f"{label}, dead_letter", dead_letter)
            agent: Agent[Any, Any] = Agent(
                name=agent_name,
                group=valid_name(f"{label}, group", f"{self.name}.{agent_name}" if group is None else group),
                topics=sources,
                sink=None if sink is None else self._own(f"{label}, sink", sink),
                handler=handler,
                shape=shape,
                item=item,
                is_generator=signature.is_generator,
                concurrency=positive(f"{label}, concurrency", 1 if concurrency is None else concurrency),
                order_by=_valid_order(label, "key" if order_by is None else order_by),
                batch=batch,
                timeout=optional(seconds, f"{label}, timeout", timeout),
                start_from=one_of(f"{label}, start_from", start_from, ("earliest", "latest")),
                on_gap=one_of(f"{label}, on_gap", on_gap, ("stop", "earliest", "latest")),
                retry=optional(_valid_retry, f"{label}, retry", retry),
                dead_letters=dead_letters(f"{label}, dead_letter", dead_letter, retry, sources),
            )
            self._register(agent, brought(agent, dead_letter))
            return agent

        return declare

    def timer(self, every: Duration, *, name: str | None = None) -> Callable[[T], T]:
        """Declare a timer: the decorated async function, which takes nothing, is called `every` so often.

        In each worker process, for the first time after `every`, and never while it still runs: what comes due
        meanwhile is one call. When it raises, the worker stops. What it sends belongs to the app.
        """
        interval = seconds("App.timer", every)

        def declare(function: T) -> T:
            timer_name = valid_name("timer", name or _handler_name(function))
            if timer_name in self._timers:
                raise DeclarationError(
                    f"timer {timer_name!r} is declared twice in app {self.name!r}; give one another name="
                )
            self._timers[timer_name] = Timer(timer_name, interval, _valid_timer(timer_name, function))
            return function

        return declare

    def test(self, **settings: SettingValue) -> "AbstractAsyncContextManager[AppUnderTest]":
        """The app at work on an in-process broker, for tests: `async with app.test() as test`.

        Inside, `await test.send(topic, value, key=...)` writes records, `await test.drain()` waits until all are
        settled and raises what made the app fail, `test.sent(topic)` are the values in a topic, and
        `test.dead_letters(topic)` what has failed for good of one. Topics are empty and have their declared partitions,
        else one; retry tiers do not wait. `settings` win over those given to the app.
        """
        from streamkit.testing import under_test

        return under_test(self, settings)

    def _own(self, label: str, topic: Topic[Any, Any]) -> Topic[Any, Any]:
        if self._topics.get(topic.name) is not topic:
            raise DeclarationError(
                f"{label}: {topic!r} was declared by another app; declare it with this one's .topic()"
            )
        return topic

    def _register(self, agent: Agent[Any, Any], names: Iterable[Claim]) -> None:
        if agent.name in self._agents:
            raise DeclarationError(
                f"agent {agent.name!r} is declared twice in app {self.name!r}; give one another name="
            )
        for other in self._agents.values():
            if other.group == agent.group:
                raise DeclarationError(
                    f"agent {agent.name!r}, group: {agent.group!r} is the group of agent {other.name!r} already; "
                    "each agent needs its own: leave group= out, or give another name"
                )
        self._names.claim(names)
        self._agents[agent.name] = agent


def _check_topic(parameter: str, topic: object) -> None:
    if isinstance(topic, Topic):
        return
    if inspect.isfunction(topic):
        raise DeclarationError(
            f"App.agent, {parameter}: it is missing; write `@app.agent(TOPIC)` above {topic.__qualname__}"
        )
    use = "sink=orders" if parameter == "sink" else "orders"
    raise DeclarationError(
        f"App.agent, {parameter}: {topic!r} is not a topic. Declare one, `orders = app.topic(NAME, value=TYPE)`, "
        f"and write `@app.agent({'..., ' if parameter == 'sink' else ''}{use})`"
    )


def _handler_name(handler: object) -> object:
    return getattr(handler, "__name__", None) or f"{type(handler).__name__} without a __name__; give name="


def _check_applies(label: str, shape: Shape, **given: object) -> None:
    unfit = {"loop": ("concurrency", "order_by"), "batch": ("order_by",)}.get(shape, ())
    for parameter in unfit:
        if given[parameter] is not None:
            raise DeclarationError(f"{label}, {parameter}: does not apply to a {shape}, which goes by partition")


def _of_one_type(label: str, topics: Sequence[Topic[Any, Any]]) -> tuple[Topic[Any, Any], ...]:
    first, *others = topics
    for place, other in enumerate(others, 1):
        if other in topics[:place]:
            raise DeclarationError(f"{label}, topic: {other!r} is given twice")
        for name in ("key_type", "value_type", "codec"):
            if getattr(other, name) != getattr(first, name):
                raise DeclarationError(
                    f"{label}, topic: the topics of an agent have one type; {other!r} differs from {first!r} in {name}"
                )
    return tuple(topics)


def _valid_lifespan(label: str, lifespan: Any) -> Any:
    if inspect.isasyncgenfunction(lifespan) or inspect.iscoroutinefunction(lifespan):
        raise DeclarationError(f"{label}: decorate {_handler_name(lifespan)} with contextlib.asynccontextmanager")
    if not callable(lifespan):
        raise DeclarationError(
            f"{label}: {lifespan!r} is not a function that takes the app and returns an async context manager"
        )
    return lifespan


def _valid_on_error(label: str, on_error: Any) -> Any:
    if not callable(on_error) or inspect.iscoroutinefunction(on_error):
        raise DeclarationError(f"{label}: a plain function of the error and the record is needed, not {on_error!r}")
    return on_error


def _valid_timer(name: str, function: Any) -> Any:
    if not inspect.iscoroutinefunction(function):
        raise DeclarationError(
            f"timer {name!r}: it is not async. Declare it with `async def`, and run what blocks with "
            "`await asyncio.to_thread(...)`"
        )
    required = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is inspect.Parameter.empty
        and parameter.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    ]
    if required:
        raise DeclarationError(f"timer {name!r}: it is called without arguments, and {required[0]!r} would be missing")
    return function


def _ends(topic: Topic[Any, Any], sink: Topic[Any, Any] | None) -> Ends:
    if sink is None:
        return Ends(topic.name, topic.key_type, topic.value_type)
    return Ends(topic.name, topic.key_type, topic.value_type, sink.name, sink.key_type, sink.value_type)


def _valid_order(label: str, order_by: Any) -> Any:
    if callable(order_by):
        if inspect.iscoroutinefunction(order_by):
            raise DeclarationError(
                f"{label}, order_by: the function must not be async; it is called before the handler"
            )
        return order_by
    if order_by in ("key", "partition", "none"):
        return order_by
    raise DeclarationError(f"{label}, order_by: {order_by!r} is none of 'key', 'partition', 'none' or a function")


def _valid_retry(label: str, retry: object) -> Retry:
    if isinstance(retry, Retry):
        return retry
    raise DeclarationError(f'{label}: {retry!r} is not a Retry; write retry=Retry.exponential("5s")')


def _declared(label: str, choose: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return choose(*arguments)
    except TypeError as error:
        raise DeclarationError(f"{label}: {error}") from error


def _same_declaration(known: Topic[Any, Any], again: Topic[Any, Any]) -> None:
    for name in ("key_type", "value_type", "codec", "partitions", "replication", "retention", "config"):
        first, second = getattr(known, name), getattr(again, name)
        if first != second:
            raise DeclarationError(
                f"topic {known.name!r} is declared twice, with {name}={first!r} and with {name}={second!r}; "
                "declare it once and import it"
            )
