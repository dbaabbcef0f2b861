"""The committed results as one Markdown table: `python -m benchmarks.summary benchmarks/results`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main() -> int:
    """Print the table of all `deploy-vs-hand` results in a folder."""
    print(
        "| model | chosen | speed | metric (float) | best by hand | its speed, metric | hand / chosen |"
    )
    print("|---|---|---|---|---|---|---|")
    for path in sorted(Path(sys.argv[1]).glob("*-deploy-vs-hand-*.json")):
        print(_row(json.loads(path.read_text(encoding="utf-8"))))
    return 0


def _row(found: dict[str, Any]) -> str:
    chosen = found["chosen"]
    hand = next(row for row in found["hand"] if row["name"] == found["best_hand"])
    cells = (
        found["model"],
        f"`{chosen['name']}`",
        _interval(chosen["speedup"]),
        f"{found['metric']} {chosen['metric']:.4f} ({found['float_metric']:.4f})",
        hand["name"],
        f"{hand['speedup']['value']:.2f}, {hand['metric']:.4f}",
        _interval(found["direct"]) + ("" if found["direct_stable"] else " noisy"),
    )
    return "| " + " | ".join(cells) + " |"


def _interval(data: dict[str, float]) -> str:
    return f"{data['value']:.2f} [{data['low']:.2f}, {data['high']:.2f}]"


if __name__ == "__main__":
    sys.exit(main())
