"""Float forms that fail the check: the node that the engine converts wrongly, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgesdk.backend import require_backend
from edgesdk.bench import Bench, Prepared, Trial
from edgesdk.errors import EdgeSdkError
from edgesdk.events import Event
from edgesdk.quality import Verdict
from edgesdk.recipe import Recipe

_ROWS = 2


def blame_conversions(
    bench: Bench, trials: Sequence[Trial], start: Mapping[str, Prepared]
) -> tuple[str, ...]:
    """For each engine whose plain float form fails, what is known of the node at fault, in a sentence.

    Args:
        bench: what the trials share.
        trials: tried.
        start: the graph that each backend's recipes started from.
    """
    return tuple(_blamed(bench, trials, start))


def _blamed(bench: Bench, trials: Sequence[Trial], start: Mapping[str, Prepared]) -> Iterator[str]:
    for trial in trials:
        choice, quality = trial.outcome.candidate.single, trial.outcome.quality
        is_plain = choice.recipe == Recipe() and not choice.structure
        if not is_plain or quality is None or quality.verdict != Verdict.FAIL:
            continue
        prepared = start[choice.backend]
        rows = bench.samples.evaluation.subset(_ROWS)
        common = {"backend": choice.backend, "recipe": choice.recipe.name, "threads": bench.threads}
        bench.listen(Event(stage="blame", subject=trial.outcome.name, state="begin"))
        try:
            done = bench.workshop.step(
                "bisect_conversion",
                {**common, "model": str(prepared.path), "rows": rows.to_json()},
                {
                    **common,
                    "model": prepared.key,
                    "rows": [bench.samples.fingerprint, len(rows)],
                    "version": require_backend(choice.backend).version(),
                },
            )
        except EdgeSdkError as exc:
            told = f"{choice.backend} computes the float model otherwise; where is not known: {exc}"
        else:
            told = _told(choice.backend, done.response["fault"])
        bench.listen(Event(stage="blame", subject=trial.outcome.name, state="done", message=told))
        yield told


def _told(backend: str, fault: Mapping[str, Any] | None) -> str:
    if fault is None:
        return (
            f"{backend} fails the check in float, and on {_ROWS} rows no tensor departs from "
            "onnxruntime's: the loss is in single rows, or in sums of small differences"
        )
    suspects = ", ".join(
        f"{name!r} ({op})" for name, op in zip(fault["suspects"], fault["ops"], strict=True)
    )
    return (
        f"{backend} converts a node wrongly, so all of its forms are suspect: {suspects}; the first "
        f"wrong tensor is {fault['tensor']!r}"
    )
