"""Why nodes are left to the CPU, read from the log of the vendor's compiler; pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from edgesdk_backends.qnn.graph import CONVERSIONS

_ENDS = "conversion at an end of the graph, which the compiler leaves to the CPU"
_UNTOLD = "the compiler gives no reason"

_UNIT = re.compile(
    r"Validation FAILED for \d+ nodes in OrtNodeUnit \((?P<op>[^)]*)\) ?:\n"
    r"(?P<nodes>(?:\tOperator type: .*\n)+)"
    r"\tREASON : (?P<reason>.*)"
)
_NODE = re.compile(r"\tOperator type: \S+ Node name: (?P<name>.*) Node index: \d+\n")
_CONFIG = re.compile(
    r"Qnn_OpConfig node name: (?P<name>.*?) package_name: \S+ QNN_op_type: (?P<op>\S+)[^\n]*\n"
    r" node_inputs:\n(?P<inputs>(?: name=[^\n]*\n)*)"
)
_REFUSED = re.compile(
    r"backendValidateOpConfig\(\) failed for node `(?P<name>[^`]*)` of type `(?P<op>[^`]*)` "
    r"with error code (?P<code>\d+)"
)
_TYPE = re.compile(r"dataType=QNN_DATATYPE_(\S+)")


def read_reasons(log: str) -> dict[str, str]:
    """The reason of each refused node by name, and of the conversions that belong to it."""
    refused = {
        found["name"]: f"the HTP refuses {found['op']}{{inputs}} (QNN error {found['code']})"
        for found in _REFUSED.finditer(log)
    }
    for found in _CONFIG.finditer(log):
        if found["name"] in refused:
            types = ", ".join(_TYPE.findall(found["inputs"]))
            inputs = f" with inputs {types}" if types else ""
            refused[found["name"]] = refused[found["name"]].replace("{inputs}", inputs)
    reasons = {}
    for unit in _UNIT.finditer(log):
        names = _NODE.findall(unit["nodes"])
        told = next((refused[name] for name in names if name in refused), "")
        reason = told.replace("{inputs}", "") or _sentence(unit["reason"])
        for name in names:
            reasons[name] = reason
    return reasons


def reason_for(node: str, op: str, reasons: Mapping[str, str]) -> str:
    """Why this node runs on the CPU, as far as anyone tells."""
    if node in reasons:
        return reasons[node]
    return _ENDS if op in CONVERSIONS else _UNTOLD


def _sentence(text: str) -> str:
    """The first sentence: the rest says that the node is not assigned, which is known."""
    first = text.strip().split(". ")[0]
    return re.split(r"\.(?=[A-Z])", first)[0].rstrip(".")
