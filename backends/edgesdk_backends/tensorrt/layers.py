"""Layers of an engine, as TensorRT's inspector lists them. Pure."""

from __future__ import annotations

import json
import re
from typing import Any

from edgesdk.backend import NodePlacement

PROVIDER = "TensorRT"
_ONNX = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_PRECISIONS = {
    "int8": "int8",
    "int4": "int4",
    "half": "fp16",
    "fp16": "fp16",
    "bfloat16": "bf16",
    "bf16": "bf16",
    "float": "fp32",
    "fp32": "fp32",
}
"""Words of a format such as "Thirty-two wide channel vectorized row major Int8 format", in this order."""


def read_layers(text: str) -> tuple[NodePlacement, ...]:
    """Where each layer runs, from `EngineInspector.get_engine_information` in JSON.

    An engine that was built with names only lists these; one with details lists objects. The schema is
    that of TensorRT 10, of which the fields read here are documented by example only.

    Raises:
        ValueError: the text is no JSON.
    """
    document = json.loads(text)
    entries = document.get("Layers", []) if isinstance(document, dict) else []
    return tuple(_layer(entry) for entry in entries)


def _layer(entry: Any) -> NodePlacement:
    if isinstance(entry, str):
        return NodePlacement(node=entry, op="", unit="gpu", provider=PROVIDER)
    name, kind = str(entry.get("Name", "")), str(entry.get("LayerType", ""))
    tactic = str(entry.get("TacticName", ""))
    return NodePlacement(
        node=name,
        op=str(entry.get("ParameterType") or kind),
        unit="gpu",
        provider=f"{PROVIDER} {tactic}".strip(),
        precision=_precision(entry),
        origin=tuple(dict.fromkeys(_ONNX.findall(str(entry.get("Metadata", ""))))),
    )


def _precision(entry: Any) -> str:
    """The type that a layer reads: of its first input, else of its first output."""
    for side in ("Inputs", "Outputs"):
        for tensor in entry.get(side) or []:
            stated = str(
                tensor.get("Format/Datatype", "") if isinstance(tensor, dict) else ""
            ).lower()
            for word, precision in _PRECISIONS.items():
                if word in stated:
                    return precision
    return ""
