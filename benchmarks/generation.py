"""A generating decoder in smaller forms: perplexity, agreement over whole answers, bytes and pace.

    python -m benchmarks.generation --ref build/ref --out benchmarks/results [--forms FORM,…] [--timed]

Every form is made by what `edgesdk compress` calls. Each goes on from its own tokens, greedily, so that
one early slip counts for all that follows; what it would choose after the original's tokens is told
beside it. Times come only with `--timed`, for a machine that does nothing else: the prompt at once, and
one token after it, each measured in turns with the original.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.common import SETTINGS, TIMEOUT_S, run
from benchmarks.models import smollm2
from edgesdk.backend import OpenOptions, require_backend
from edgesdk.cache import Cache
from edgesdk.compressing import MODEL, compress_model
from edgesdk.device.local import LocalDevice
from edgesdk.errors import EdgeSdkError
from edgesdk.evidence import Evidence
from edgesdk.generation import (
    Alike,
    Ratio,
    agreement,
    alike,
    forced_agreement,
    greedy,
    perplexity,
    perplexity_ratio,
)
from edgesdk.isolate import run_isolated
from edgesdk.machine import detect
from edgesdk.measure.pair import measure_candidate
from edgesdk.measure.result import Interval, Measurement
from edgesdk.measure.settings import Inputs, Target

NAMES = ("smollm2",)
FORMS = ("w8-only", "w8b32-only", "w4b128-only", "w4b32-only", "w8a8-dynamic")
ORIGINAL = "fp32"
ENGINE = "onnxruntime"
_MS = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast text comes, beside the original on the same machine.

    Attributes:
        prompt_tokens: of the prompt that was timed.
        prefill_ms, prefill_speedup: the whole prompt at once, median; and original over this.
        token_ms, token_speedup: one token after that prompt.
        tokens_per_second: at that length of the past.
        stable: False where the machine was too noisy to trust the times.
        evidence: how the times were obtained.
    """

    prompt_tokens: int
    prefill_ms: float
    prefill_speedup: Interval
    token_ms: float
    token_speedup: Interval
    tokens_per_second: float
    stable: bool
    evidence: Evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One form of the decoder.

    Attributes:
        artifact_bytes: of the graph and its weights.
        perplexity: by kind of text.
        against: its ratio to the original's, by kind of text.
        free: agreement of whole answers, each going on from its own tokens.
        forced: mean share of the original's tokens that it would choose after those before.
        peak_mib: peak resident memory of the process that made all this.
        pace: None where nothing was timed.
        notes: what the steps that made it remarked.
        refused: why it could not be made or run.
    """

    form: str
    artifact_bytes: int | None = None
    perplexity: dict[str, float] | None = None
    against: dict[str, Ratio] | None = None
    free: Alike | None = None
    forced: float | None = None
    peak_mib: float | None = None
    pace: Pace | None = None
    notes: tuple[str, ...] = ()
    refused: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """All forms of one decoder.

    Attributes:
        rows: texts of each kind that were scored, at most.
        prompts: questions that were answered.
        most: tokens of an answer at most.
        answers: the first three of the original, as text.
    """

    model: str
    rows: int | None
    prompts: int
    most: int
    answers: tuple[str, ...]
    forms: tuple[Form, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What a form scored and wrote."""

    scores: dict[str, list[Any]]
    answers: list[tuple[int, ...]]
    forced: float | None
    peak_mib: float


def main() -> int:
    """Run it for the prepared decoder."""
    return run("generation", __doc__, _compare, _verdict, names=NAMES, add_options=_options)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--forms", default=",".join(FORMS), help="which forms")
    parser.add_argument("--prompts", type=int, default=24, help="questions to answer")
    parser.add_argument("--most", type=int, default=48, help="tokens of an answer, at most")
    parser.add_argument("--timed", action="store_true", help="measure; only on a quiet machine")


def _compare(name: str, options: argparse.Namespace) -> Found:
    folder = (options.ref / name).absolute()
    with TemporaryDirectory(prefix="edgesdk-bench-") as place:
        scratch = Path(place)
        graph = folder / "decoder.onnx"
        original = _look(graph, folder, options, scratch, None)
        forms = [_form(ORIGINAL, graph, original, original)]
        for form in options.forms.split(","):
            begun = time.monotonic()
            forms.append(_tried(form, graph, original, folder, options, scratch))
            print(f"{name} {form}: {time.monotonic() - begun:.0f} s", flush=True)
    return Found(
        model=name,
        rows=options.rows,
        prompts=len(original.answers),
        most=options.most,
        answers=_texts(folder, original.answers[:3]),
        forms=tuple(forms),
    )


def _tried(
    form: str,
    graph: Path,
    original: _Seen,
    folder: Path,
    options: argparse.Namespace,
    scratch: Path,
) -> Form:
    """One form made, judged and, where asked for, timed."""
    with TemporaryDirectory(dir=scratch) as own:
        out = Path(own) / "form"
        try:
            done = compress_model(
                graph, form, profile="x86", out=out, cache=Cache(scratch / "cache")
            )
            seen = _look(out / MODEL, folder, options, Path(own), original)
            pace = _pace(graph, out / MODEL, folder, Path(own)) if options.timed else None
        except EdgeSdkError as exc:
            return Form(form=form, refused=f"{type(exc).__name__}: {exc}")
        return _form(form, out / MODEL, original, seen, pace, done.notes)


def _form(
    form: str,
    artifact: Path,
    original: _Seen,
    seen: _Seen,
    pace: Pace | None = None,
    notes: tuple[str, ...] = (),
) -> Form:
    pairs = zip(original.answers, seen.answers, strict=True)
    return Form(
        form=form,
        artifact_bytes=sum(
            file.stat().st_size for file in Target(backend=ENGINE, artifact=artifact).all_files()
        ),
        perplexity={kind: perplexity(scores) for kind, scores in seen.scores.items()},
        against={
            kind: perplexity_ratio(original.scores[kind], scores)
            for kind, scores in seen.scores.items()
        },
        free=alike([agreement(*pair) for pair in pairs]),
        forced=seen.forced,
        peak_mib=seen.peak_mib,
        pace=pace,
        notes=notes,
    )


def _look(
    artifact: Path,
    folder: Path,
    options: argparse.Namespace,
    scratch: Path,
    original: _Seen | None,
) -> _Seen:
    """Scores and answers of an artifact, from a process of its own."""
    request = {
        "artifact": str(artifact),
        "folder": str(folder),
        "rows": options.rows,
        "prompts": options.prompts,
        "most": options.most,
        "original": original.answers if original else None,
    }
    done = run_isolated(
        "benchmarks.generation:look", request, folder=scratch / "look", timeout_s=TIMEOUT_S
    )
    told = done.response
    return _Seen(
        scores={kind: [np.array(row) for row in rows] for kind, rows in told["scores"].items()},
        answers=[tuple(answer) for answer in told["answers"]],
        forced=told["forced"],
        peak_mib=done.peak_mib,
    )


def look(request: dict[str, Any]) -> dict[str, Any]:
    """`artifact`, `folder`, `rows`, `prompts`, `most`, `original` -> `scores`, `answers`, `forced`."""
    folder = Path(request["folder"])
    options = OpenOptions(threads=1)  # nothing is timed here, and others may need the cores
    questions = smollm2.prompts(folder, request["prompts"])
    forced = None
    with require_backend(ENGINE).open(Path(request["artifact"]), options) as session:
        decoder = smollm2.decoder_of(session)
        scores = {
            kind: [row.tolist() for row in smollm2.scores(decoder, rows)]
            for kind, rows in smollm2.texts(folder, request["rows"]).items()
        }
        answers = [
            greedy(decoder, question, most=request["most"], stop={smollm2.END}).tokens
            for question in questions
        ]
        if request["original"]:
            pairs = zip(questions, request["original"], strict=True)
            shares = [forced_agreement(decoder, *pair) for pair in pairs if pair[1]]
            forced = float(np.mean(shares))
    return {"scores": scores, "answers": answers, "forced": forced}


def _pace(old: Path, new: Path, folder: Path, scratch: Path) -> Pace:
    """Prefill and one token after it, each in turns with the original, both frozen meanwhile."""
    prompt = max(smollm2.prompts(folder, 24), key=len)
    threads = detect().logical_cores
    with require_backend(ENGINE).open(old, OpenOptions(threads=threads)) as session:
        decoder = smollm2.decoder_of(session)
        rows = {"prefill": decoder.feed(prompt)}
        token = int(decoder.extend(prompt)[-1].argmax())
        rows["token"] = decoder.feed([token])
    measured: dict[str, Measurement] = {}
    for name, feed in rows.items():
        path = scratch / f"{name}.npz"
        np.savez(path, **feed)  # type: ignore[arg-type]
        inputs = Inputs(names=tuple(feed), rows=(path,))
        place = scratch / f"measure-{name}"
        place.mkdir()
        sides = [
            Target(backend=ENGINE, artifact=artifact, threads=threads) for artifact in (old, new)
        ]
        _, measured[name] = measure_candidate(
            sides[0], sides[1], inputs, SETTINGS, LocalDevice(), place
        )
    prefill, token_one = measured["prefill"], measured["token"]
    assert prefill.latency is not None, "this machine has a clock"
    assert token_one.latency is not None, "this machine has a clock"
    return Pace(
        prompt_tokens=len(prompt),
        prefill_ms=prefill.latency.p50_ms,
        prefill_speedup=prefill.speedup,
        token_ms=token_one.latency.p50_ms,
        token_speedup=token_one.speedup,
        tokens_per_second=_MS / token_one.latency.p50_ms,
        stable=prefill.stable and token_one.stable,
        evidence=token_one.evidence,
    )


def _texts(folder: Path, answers: list[tuple[int, ...]]) -> tuple[str, ...]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return tuple(str(tokenizer.decode(list(answer))) for answer in answers)


def _verdict(found: Found) -> tuple[str, bool]:
    lines = [f"{len(found.forms)} forms, {found.prompts} answers of at most {found.most} tokens"]
    for form in found.forms:
        if form.refused or form.perplexity is None or form.free is None:
            lines.append(f"  {form.form}: {form.refused}")
            continue
        texts = ", ".join(f"{kind} {value:.2f}" for kind, value in form.perplexity.items())
        lines.append(
            f"  {form.form}: {(form.artifact_bytes or 0) / 1e6:.0f} MB, perplexity {texts}, "
            f"free agreement {form.free.share:.3f}, forced {form.forced or 1.0:.3f}"
        )
    return "\n".join(lines), True


if __name__ == "__main__":
    sys.exit(main())
