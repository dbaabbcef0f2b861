"""Plans for every shipped profile and reference model, kept so that a change of them is seen.

    python tools/golden_plans.py                     compare; exits 1 and shows the difference
    python tools/golden_plans.py --write             write them anew
    python tools/golden_plans.py --facts NAME=FILE   take the facts of a model that plans are made for

`tests/golden/models/NAME.json` has what a plan needs to know of a model, without its weights;
`tests/golden/plans/PROFILE.json` has the plans. A profile that is detected has none: it depends on
the machine.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgesdk.budget import Budget
from edgesdk.errors import EdgeSdkError
from edgesdk.model import Model, read_model
from edgesdk.onnxfile.nodes import NodeFacts
from edgesdk.pipeline import Pipeline
from edgesdk.plan.candidate import Plan
from edgesdk.plan.make import Engine, EngineFacts, SampleFacts, make_plan
from edgesdk.profile import load_profile, profile_sources
from edgesdk.profile_values import Profile
from edgesdk.signature import TensorInfo
from edgesdk_backends.litert import LiteRtBackend
from edgesdk_backends.litert.ethosu import EthosUBackend
from edgesdk_backends.onnxruntime import OnnxRuntimeBackend
from edgesdk_backends.openvino import OpenVinoBackend
from edgesdk_backends.qnn import QnnBackend
from edgesdk_backends.tensorrt import TensorRtBackend

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden"
REWRITE = "python tools/golden_plans.py --write"
_BUILT_IN = "edgesdk_profiles/"
_DETECTED = "x86"


_ENGINES: dict[str, tuple[EngineFacts, str]] = {
    "onnxruntime": (OnnxRuntimeBackend(), "1.31.1"),
    "openvino": (OpenVinoBackend(), "2026.4.1"),
    "litert": (LiteRtBackend(), "2.3.0"),
    "ethos-u": (EthosUBackend(), "5.2.0"),
    "qnn": (QnnBackend(), "2.7.0"),
    "tensorrt": (TensorRtBackend(), "10.3"),
}
"""Engines as data: what the adapters say without loading them, and one version for all machines.

Those without an adapter are there so that the lines of the profiles about them are replayed too.
"""
_SAMPLES = {
    "calibrated": SampleFacts(calibration_rows=100, uniform_shapes=None, synthetic=False),
    "no samples": SampleFacts(calibration_rows=0, uniform_shapes=None, synthetic=True),
}
_BUDGETS = {"latency": Budget(), "size": Budget(objective="size")}
SETTINGS = tuple(f"{budget}, {samples}" for budget in _BUDGETS for samples in _SAMPLES)

Case = tuple[str, str]
"""A model and one of `SETTINGS`."""
Said = tuple[tuple[str, Any], ...]
"""Fields of one statement about plans."""


def profiles() -> tuple[str, ...]:
    """Names of the shipped profiles that do not depend on the machine, sorted."""
    return tuple(
        name
        for name, where in profile_sources().items()
        if where.startswith(_BUILT_IN) and name != _DETECTED
    )


def models() -> dict[str, Model]:
    """The reference models by name, as far as a plan knows them."""
    files = sorted((GOLDEN / "models").glob("*.json"))
    return {file.stem: from_facts(json.loads(file.read_text(encoding="utf-8"))) for file in files}


def facts(model: Model) -> dict[str, Any]:
    """What a plan needs to know of a model: all but its nodes, of which only the count stays."""
    plain = asdict(model)
    wanted = ("opset", "domains", "ir_version", "producer", "parameters", "weight_bytes")
    return {
        "file": model.path.name,
        "sha256": model.sha256,
        "file_bytes": model.file_bytes,
        **{name: plain[name] for name in wanted},
        "inputs": plain["inputs"],
        "outputs": plain["outputs"],
        "ops": dict(sorted(model.op_histogram.items())),
    }


def from_facts(data: Mapping[str, Any]) -> Model:
    """A model with these facts, whose nodes have an operator and nothing else."""
    plain = {key: value for key, value in data.items() if key not in ("file", "ops")}
    for key in ("inputs", "outputs"):
        plain[key] = tuple(
            TensorInfo(name=item["name"], dtype=item["dtype"], shape=tuple(item["shape"]))
            for item in data[key]
        )
    return Model(
        **plain,
        path=Path(data["file"]),
        external_files=(),
        nodes=tuple(_nodes(data["ops"])),
        functions=(),
        metadata={},
    )


def replay(profile: str, known: Mapping[str, Model]) -> dict[str, Any]:
    """Every plan for a profile; what many plans say is there once, with the plans it holds for."""
    device = load_profile(profile)
    said: dict[str, dict[Said, list[Case]]] = {}
    for name, model in known.items():
        for setting in SETTINGS:
            for table, statement in _statements(model, device, setting):
                said.setdefault(table, {}).setdefault(statement, []).append((name, setting))
    whole = [(name, setting) for name in known for setting in SETTINGS]
    return {
        "profile": profile,
        **{
            table: [
                {**dict(one), "in": _spelt(cases, whole)} for one, cases in sorted(rows.items())
            ]
            for table, rows in sorted(said.items())
        },
    }


def difference(profile: str, known: Mapping[str, Model]) -> str:
    """What changed in the plans for a profile, as a unified diff; empty where nothing did."""
    file = _file(profile)
    old = file.read_text(encoding="utf-8") if file.is_file() else ""
    new = _text(replay(profile, known))
    names = f"{file.name} as stored", f"{file.name} now"
    lines = difflib.unified_diff(old.splitlines(True), new.splitlines(True), *names)
    return "".join(lines)


def _statements(model: Model, profile: Profile, setting: str) -> Iterator[tuple[str, Said]]:
    """What one plan says, by the table it goes into."""
    budget, samples = setting.split(", ")
    engines = [_engine(name) for name in profile.backends]
    try:
        plan = make_plan(
            Pipeline.of(model), profile, engines, _SAMPLES[samples], budget=_BUDGETS[budget]
        )
    except EdgeSdkError as exc:
        yield "fails", (("error", f"{type(exc).__name__}: {exc}"),)
        return
    yield from _told(plan)


def _told(plan: Plan) -> Iterator[tuple[str, Said]]:
    order = tuple(item.name for item in plan.candidates)
    yield "order", (("baseline", plan.baseline.name), ("then", order))
    for item in plan.candidates:
        yield "tries", (("name", item.name), ("why", item.why))
    for gone in plan.rejected:
        instead = " ".join(gone.alternative.options) if gone.alternative else ""
        keys = tuple(f"{cause.file or cause.kind}: {cause.fact}" for cause in gone.causes)
        yield (
            "rules out",
            (("name", gone.name), ("reason", gone.reason), ("by", keys), ("instead", instead)),
        )


def _engine(name: str) -> Engine:
    known, version = _ENGINES[name]
    return Engine(name=name, facts=known, version=version)


def _nodes(ops: Mapping[str, int]) -> Iterator[NodeFacts]:
    for qualified, count in ops.items():
        domain, _, op = qualified.rpartition("::")
        for _ in range(count):
            yield NodeFacts(
                name="",
                op=op,
                domain=domain,
                macs=None,
                activation_bytes=None,
                weight_bytes=0,
                depth=0,
                inputs=(),
                outputs=(),
            )


def _spelt(cases: Iterable[Case], whole: Iterable[Case]) -> list[str]:
    """Cases in words, as few as possible: `all`, a setting for all models, a model for all settings."""
    rest, every = set(cases), set(whole)
    if rest == every:
        return ["all"]
    words = []
    for setting in SETTINGS:
        group = {case for case in every if case[1] == setting}
        if group <= rest:
            words.append(setting)
            rest -= group
    for model in sorted({case[0] for case in rest}):
        group = {case for case in every if case[0] == model}
        if group <= rest:
            words.append(model)
            rest -= group
    return words + [f"{model}: {setting}" for model, setting in sorted(rest)]


def _file(profile: str) -> Path:
    return GOLDEN / "plans" / f"{profile}.json"


def _text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    """Compare, write, or take facts; exit code 1 where plans differ from what is stored."""
    parser = argparse.ArgumentParser(description="Plans of shipped profiles and reference models.")
    parser.add_argument("--write", action="store_true", help="write the plans anew")
    parser.add_argument("--facts", metavar="NAME=FILE", action="append", default=[])
    arguments = parser.parse_args()
    for item in arguments.facts:
        name, _, file = item.partition("=")
        text = _text(facts(read_model(Path(file))))
        (GOLDEN / "models" / f"{name}.json").write_text(text, encoding="utf-8")
    if arguments.facts:
        return 0
    known = models()
    changed = ""
    for profile in profiles():
        if arguments.write:
            _file(profile).write_text(_text(replay(profile, known)), encoding="utf-8")
        else:
            changed += difference(profile, known)
    print(changed, end="")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
