"""Metrics as values, and Prometheus' text format of them.

Names follow Prometheus' conventions: base units, `_total` for what only grows, labels for kinds.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

type Labels = tuple[tuple[str, str], ...]

_FIRST_BUCKET: Final = 10
_BUCKET_STEP: Final = 2


class Metric(NamedTuple):
    """Numbers of one name.

    Attributes:
        name: Its name; of a counter it ends with `_total`.
        help: What it says, in one line.
        samples: The numbers by their labels.
    """

    name: str
    help: str
    samples: Sequence[tuple[Labels, float]]


class Durations(NamedTuple):
    """Histograms of one name.

    Attributes:
        name: Its name, which ends with `_seconds`.
        help: What it says, in one line.
        samples: By their labels, how many took less than 2**n nanoseconds and not less than 2**(n-1) (the last: all
            that took longer), and how many nanoseconds all of them took.
    """

    name: str
    help: str
    samples: Sequence[tuple[Labels, tuple[Sequence[int], int]]]


def to_prometheus(metrics: Iterable[Metric | Durations], labels: Mapping[str, str]) -> str:
    """Writes metrics in Prometheus' text format 0.0.4.

    Args:
        metrics: What to write; each name once.
        labels: What every line says, after its own labels.
    """
    common = tuple(labels.items())
    lines: list[str] = []
    for metric in metrics:
        if not metric.samples:
            continue
        lines.append(f"# HELP {metric.name} {_escape_help(metric.help)}")
        if isinstance(metric, Durations):
            lines.append(f"# TYPE {metric.name} histogram")
            for own, (buckets, total_ns) in metric.samples:
                _histogram(lines, metric.name, (*own, *common), buckets, total_ns)
        else:
            lines.append(f"# TYPE {metric.name} {'counter' if metric.name.endswith('_total') else 'gauge'}")
            for own, value in metric.samples:
                lines.append(f"{metric.name}{_labels((*own, *common))} {value:.15g}")
    return "\n".join(lines) + "\n"


def _histogram(lines: list[str], name: str, labels: Labels, buckets: Sequence[int], total_ns: int) -> None:
    """Writes one histogram, from a microsecond up by powers of four."""
    seen = 0
    for number, count in enumerate(buckets[:-1]):
        seen += count
        if number >= _FIRST_BUCKET and (number - _FIRST_BUCKET) % _BUCKET_STEP == 0:
            bound = f"{(1 << number) / 1e9:g}"
            lines.append(f"{name}_bucket{_labels((*labels, ('le', bound)))} {seen}")
    total = sum(buckets)
    lines += [
        f"{name}_bucket{_labels((*labels, ('le', '+Inf')))} {total}",
        f"{name}_sum{_labels(labels)} {total_ns / 1e9:.9f}",
        f"{name}_count{_labels(labels)} {total}",
    ]


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escape(value)}"' for name, value in labels) + "}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _escape_help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")
