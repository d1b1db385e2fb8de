"""The worker's own metrics as text: what prometheus_client's encoders make of them, in half of the time.

With hundreds of partitions, most of a scrape is writing the same labels again and again; and as long as it takes, the
worker's loop shares the GIL with it. For these metrics only: gauges, counters and histograms, without units, times of
samples and `_created`. Those of users go to prometheus_client, which knows everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from operator import itemgetter

from prometheus_client.core import Metric
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

_float: Callable[[float], str] = floatToGoString  # which has no types
SMALL = 1_000_000  # whole numbers below this are written as they are


def text(metrics: Iterable[Metric], *, openmetrics: bool) -> Iterator[str]:
    """The lines of one metric after the other. Without the `# EOF` that OpenMetrics wants at the end of all."""
    for metric in metrics:
        name = metric.name + "_total" if metric.type == "counter" and not openmetrics else metric.name
        head = f"# HELP {name} {metric.documentation}\n# TYPE {name} {metric.type}\n"
        yield head + "".join(_lines(metric, openmetrics))


def _lines(metric: Metric, openmetrics: bool) -> Iterator[str]:
    names, write = None, _writer(())
    for name, labels, value, _, exemplar, *_ in metric.samples:
        if labels.keys() != names:
            names, write = labels.keys(), _writer(tuple(labels))
        end = _shown(exemplar) if exemplar is not None and openmetrics else ""
        yield f"{name}{write(labels)} {_number(value)}{end}\n"


def _writer(names: tuple[str, ...]) -> Callable[[Mapping[str, str]], str]:
    """Writes labels of these names."""
    if not names:
        return lambda labels: ""
    ordered = sorted(names)
    template = "{" + ",".join(f'{name}="%s"' for name in ordered) + "}"
    if len(ordered) == 1:
        return lambda labels: template % _escaped(labels[ordered[0]])
    pick = itemgetter(*ordered)
    return lambda labels: template % tuple(map(_escaped, pick(labels)))


@lru_cache(4096)
def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    if type(value) is int and -SMALL < value < SMALL:
        return f"{value}.0"
    return _float(value)


def _shown(exemplar: Exemplar) -> str:
    labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in sorted(exemplar.labels.items()))
    return f" # {{{labels}}} {_float(exemplar.value)} {exemplar.timestamp}"
