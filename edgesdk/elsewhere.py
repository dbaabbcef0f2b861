"""What each candidate computes on a device with another processor, beside what this machine computes.

Kernels differ: a quantized graph that is exact here may saturate there. Verdicts are of the outputs
there; this says where they would have been others here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgesdk.bench import Bench, Built, Original, Trial
from edgesdk.decide import Outcome
from edgesdk.departures import Departure, ThereAndHere
from edgesdk.errors import EdgeSdkError
from edgesdk.events import Event
from edgesdk.looks import shuffled
from edgesdk.machine import Machine, detect
from edgesdk.samples import SampleSet

COMPARED_ROWS = 8
"""Evaluation rows; of those that the check runs anyway, as emulation is slow."""


def rows_to_compare(machine: Machine) -> int:
    """How many rows of a device are compared with this machine; 0 for one with its processor."""
    here = detect()
    same = (machine.arch, machine.features) == (here.arch, here.features)
    return 0 if same else COMPARED_ROWS


def with_elsewhere(
    bench: Bench, trials: Sequence[Trial], baseline: Outcome, original: Original
) -> tuple[list[Trial], Outcome]:
    """The trials and the baseline's outcome, each with its outputs there and here.

    Unchanged where the device has this machine's processor, or an artifact was not checked there.
    What cannot be compared, because it does not run here or there is no time, says so in a note.
    """
    if not bench.compared_rows:
        return list(trials), baseline
    bench.listen(Event(stage="compare", state="begin"))
    rows = len(bench.samples.evaluation)
    folder = original.reference.folder / "outputs"
    files = [folder / f"{row:06d}.npz" for row in shuffled(rows)[: bench.compared_rows]]
    version = original.reference.response.get("version", "")
    baseline = _compared(bench, baseline, original.built, files, original.reference.key, version)
    done = []
    for trial in trials:
        outcome = trial.outcome
        if trial.built is not None and trial.built.checks:
            first = trial.built.checks[0]
            files = sorted((first.folder / "kept").glob("*.npz"))
            version = first.response["version"]
            outcome = _compared(bench, outcome, trial.built, files, first.key, version)
        done.append(replace(trial, outcome=outcome))
    return done, baseline


def _compared(
    bench: Bench, outcome: Outcome, built: Built, there: Sequence[Path], key: str, version: str
) -> Outcome:
    """The outcome with the outputs in these files, of the step of this key, compared."""
    evaluation = bench.samples.evaluation
    picked = [int(file.stem) for file in there]
    rows = SampleSet(folder=evaluation.folder, rows=tuple(evaluation.rows[row] for row in picked))
    found = ThereAndHere(evidence=bench.device.evidence, rows=len(rows), there=version)
    try:
        done = bench.workshop.step(
            "compare_places",
            {
                **bench.opening(built.choice, built.converted),
                "rows": rows,
                "there": list(there),
            },
            {
                **bench.identity(built.choice, built.converted),
                "rows": bench.samples.fingerprint,
                "there": key,
                "picked": picked,
            },
            like=built.choice.backend,
        )
    except EdgeSdkError as exc:
        return replace(outcome, elsewhere=replace(found, rows=0, note=f"not compared: {exc}"))
    found = replace(
        found,
        outputs=tuple(Departure(**item) for item in done.response["outputs"]),
        here=done.response["version"],
    )
    worst = found.worst
    if worst is not None and not done.cached:
        message = f"output {worst.output} is computed differently on {bench.device.name}"
        bench.listen(Event(stage="compare", subject=outcome.name, message=message))
    return replace(outcome, elsewhere=found)
