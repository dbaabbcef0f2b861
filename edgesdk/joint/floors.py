"""Floors of a pipeline: those of a modality stand for the outputs that follow from it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from edgesdk.budget import CLOSENESS, Floor, parse_floor
from edgesdk.coverage import modalities_of
from edgesdk.errors import BudgetError
from edgesdk.metrics import load_metric
from edgesdk.usercode import did_you_mean
from edgesdk.wiring import OutputPort, Wiring

CLOSE = 0.01
"""What an output may lose where nobody said: 1 - cosine, or a share of other values."""


def pipeline_floors(
    texts: Iterable[str], wiring: Wiring, metrics: Sequence[str] = (), own: Sequence[str] = ()
) -> tuple[Floor, ...]:
    """Floors of single outputs and metrics, at least one for each output; the strictest of equal ones.

    `MODALITY=-1%` allows every output that follows from such inputs to lose one percent: of each metric
    that scores the output, or where none does, of its cosine (of equal values, where it is not float).
    `MODALITY.MEASURE=...` is that floor for each of these outputs. An output that nobody speaks of keeps a
    cosine, or an agreement, of 0.99, unless a metric scores it: that may lose 1 %. So may a metric that
    names none of several outputs.

    Args:
        texts: floors as the user wrote them; each may hold several.
        wiring: of the pipeline.
        metrics: those that are scored, as `load_metric` takes them.
        own: names of the user's own metrics.

    Raises:
        BudgetError: a floor speaks of nothing that is there; names what is.
    """
    of = output_modalities(wiring)
    modalities = {word for words in of.values() for word in words if word}
    outputs = {port.info.name: port for port in wiring.outputs}
    found: list[Floor] = []
    for part in (part.strip() for text in texts for part in text.split(",")):
        subject, _, value = part.rpartition("=")
        word, measure = _scope(subject.strip(), modalities, outputs)
        if word is None:
            found += _plain(part, outputs, modalities, own)
            continue
        named = [outputs[name] for name, words in of.items() if word in words]
        for port in named:
            if measure:
                found += parse_floor(f"{port.info.name}.{measure}={value}", own)
            else:
                found += _loses(port, value, part, metrics, outputs, own)
    spoken = {floor.output for floor in found}
    if any(floor.output is None for floor in found):
        spoken |= set(outputs)
    for name, port in outputs.items():
        if name not in spoken:
            found += _loses(port, f"-{CLOSE:.0%}", name, metrics, outputs, own)
    measured = {floor.quantity for floor in found}
    for metric in metrics:
        if "@" not in metric and len(outputs) > 1 and metric not in measured:
            found += _may_lose(metric, f"{CLOSE:.0%}", own)
    return _strictest(found)


def output_modalities(wiring: Wiring) -> dict[str, tuple[str, ...]]:
    """For each output, the modalities of the inputs that it follows from."""
    follows = modalities_of(wiring)
    return {port.info.name: follows.get(port.source.key, ()) for port in wiring.outputs}


def _scope(
    subject: str, modalities: set[str], outputs: Mapping[str, OutputPort]
) -> tuple[str | None, str]:
    """The modality and the measure of `image` or `audio.wer`; an output's name comes before both."""
    if subject in modalities:
        return subject, ""
    word, _, measure = subject.partition(".")
    if word in modalities and word not in outputs:
        return word, measure
    return None, ""


def _plain(
    part: str, outputs: Mapping[str, OutputPort], modalities: set[str], own: Sequence[str]
) -> tuple[Floor, ...]:
    try:
        floors = parse_floor(part, own)
    except BudgetError as exc:
        raise BudgetError(f"{exc}; or a modality: {', '.join(sorted(modalities))}") from exc
    legal = tuple(outputs)
    for floor in floors:
        if floor.output is not None and floor.output not in outputs:
            hint = did_you_mean(floor.output, legal)
            raise BudgetError(
                f"floor {floor.text!r}: no output {floor.output!r}{hint} Outputs: {', '.join(legal)}"
            )
    of_floats = tuple(name for name in CLOSENESS if name != "agreement")
    return tuple(
        each
        for floor in floors
        for each in (
            [
                replace(floor, output=name, text=f"{name}.{floor.text}")
                for name, port in outputs.items()
                if _is_float(port)
            ]
            if floor.output is None and floor.quantity in of_floats
            else [floor]
        )
    )


def _loses(
    port: OutputPort,
    value: str,
    part: str,
    metrics: Sequence[str],
    outputs: Mapping[str, OutputPort],
    own: Sequence[str],
) -> tuple[Floor, ...]:
    """What an output may lose, by its metrics or by its closeness."""
    name = port.info.name
    share = value.strip().removeprefix("-")
    scoring = [metric for metric in metrics if _scores(metric, name, outputs)]
    is_share = value.strip() != share and share.endswith("%")
    if share[:1] in ("+", "-") or not (is_share or (scoring and value.strip() != share)):
        raise BudgetError(
            f"{part!r}: say what output {name!r} may lose, such as -1%; or a measure of it: cosine=0.99, "
            "audio.wer=+0.5"
        )
    if scoring:
        return tuple(floor for metric in scoring for floor in _may_lose(metric, share, own))
    lost = _number(share[:-1], part) / 100.0
    quantity = "cosine" if _is_float(port) else "agreement"
    return parse_floor(f"{name}.{quantity}={1.0 - lost:.6g}")


def _may_lose(metric: str, share: str, own: Sequence[str]) -> tuple[Floor, ...]:
    """An error rate may rise by as much as another metric may fall."""
    sign = "-" if load_metric(metric).higher_is_better else "+"
    return parse_floor(f"{metric}={sign}{share}", own)


def _scores(metric: str, output: str, outputs: Mapping[str, OutputPort]) -> bool:
    """Whether a metric is about an output; one that names none is about all there are."""
    plain, at, named = metric.rpartition("@")
    del plain
    return named == output if at else len(outputs) == 1


def _is_float(port: OutputPort) -> bool:
    return port.info.dtype.startswith(("float", "bfloat"))


def _strictest(floors: Sequence[Floor]) -> tuple[Floor, ...]:
    """One floor for each measure of each output; of two that differ in kind the first."""
    kept: dict[tuple[str, str | None], Floor] = {}
    for floor in floors:
        key = (floor.quantity, floor.output)
        other = kept.setdefault(key, floor)
        if other.kind == floor.kind and _stricter(floor, other):
            kept[key] = floor
    return tuple(kept.values())


def _stricter(floor: Floor, other: Floor) -> bool:
    """A change may be less; a value must be more, but of the largest error less."""
    if floor.kind != "value":
        return abs(floor.bound) < abs(other.bound)
    if floor.quantity == "max_error":
        return floor.bound < other.bound
    return floor.bound > other.bound


def _number(text: str, part: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BudgetError(f"{part!r} does not parse; write e.g. image=-1%") from None
