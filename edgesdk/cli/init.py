"""`edgesdk init`: a first `edgesdk.toml` for a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgesdk.cli.options import Json, ModelFile
from edgesdk.cli.output import emit, reported_errors
from edgesdk.errors import OutputError

_TEMPLATE = """\
# What `edgesdk deploy --profile NAME` does in this folder. Every key: docs/getting-started.md
model = {model}

# Real inputs with labels where you have them: an .npz file (first axis = sample; arrays named as the
# model's inputs: {inputs}), a folder of .npz files, or "module:function".
# samples = "samples.npz"
# metrics = ["top1"]
# time_budget = "10m"     # for the whole search
# training_time = "10m"   # for each training

[budget]
# latency = "20ms"      # 95th percentile of one run
# memory = "200MB"      # peak resident memory of the process
# size = "10MB"         # all files of the artifact
objective = "latency"   # what to optimise when several candidates meet the budget

[floors]
# cosine = "0.99"       # closeness of every output to the float model
# top1 = "-1%"          # or a task metric against the float model
"""


def init(
    model: ModelFile,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")] = Path(
        "edgesdk.toml"
    ),
    as_json: Json = False,
) -> None:
    """Write an edgesdk.toml for a model, with every setting explained."""
    import json
    import os

    from edgesdk.files import write_text
    from edgesdk.model import read_model

    with reported_errors(as_json=as_json):
        facts = read_model(model)
        if out.exists():
            raise OutputError(f"{out} exists; edit it, or choose another --out")
        relative = os.path.relpath(model, out.parent)
        text = _TEMPLATE.format(
            model=json.dumps(relative, ensure_ascii=False),
            inputs=", ".join(info.name for info in facts.inputs),
        )
        write_text(out, text)
        message = f"wrote {out}; add your samples to it, then: edgesdk deploy --profile x86"
        emit({"file": str(out)}, message, as_json=as_json)
