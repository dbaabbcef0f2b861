"""A plan with what each of its candidates is expected to take; pure."""

from __future__ import annotations

from dataclasses import replace

from edgesdk.onnxfile.work import GraphWork
from edgesdk.plan.candidate import ORIGINAL, Plan
from edgesdk.plan.cost import predict
from edgesdk.plan.speeds import Speeds


def with_predictions(plan: Plan, graph: GraphWork, speeds: Speeds) -> Plan:
    """The same plan, its predictions filled in for the backends that were probed.

    Not of candidates with structural steps: which layers those change is not known before.

    The order of the candidates stays: it says what to try first, and that is not only speed.

    Args:
        plan: of a pipeline of one.
        graph: the model's work at the shapes of real inputs.
        speeds: of the profile that the plan is for.
    """
    named = [(ORIGINAL, plan.baseline), *((item.name, item) for item in plan.candidates)]
    return replace(
        plan,
        predictions=tuple(
            (name, predict(graph, item.single.recipe, item.single.backend, speeds))
            for name, item in named
            if speeds.covers(item.single.backend) and not item.single.structure
        ),
    )
