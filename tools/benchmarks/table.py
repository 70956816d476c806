"""Rows as lines of a Markdown table and as JSON."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.goals import GOALS
from owlkit.whole_file import written_whole

HEADER = (
    "| path | settings | peer | ratio | at least | owlkit s | peer s | spread | more |\n"
    "|---|---|---|---|---|---|---|---|---|"
)

Record = Mapping[str, Any]

_COMMON = ("path", "peer", "ratio", "owlkit_s", "peer_s", "spread", "settings")
_FORMATS = {"ratio": ".2f", "owlkit_s": ".3f", "peer_s": ".3f", "spread": ".0%"}


def line(record: Record) -> str:
    """A row of the table under :data:`HEADER`; its last cell has the numbers of some rows only."""
    goal = GOALS.get(record["path"])
    further = (
        f"{key} {value:.3g}"
        for key, value in record.items()
        if key not in _COMMON and isinstance(value, int | float) and value
    )
    cells = [
        *(_cell(record, key) for key in ("path", "settings", "peer", "ratio")),
        "" if goal is None else f"{goal:g}",
        *(_cell(record, key) for key in ("owlkit_s", "peer_s", "spread")),
        ", ".join(further),
    ]
    return f"| {' | '.join(cells)} |"


def write_json(records: Sequence[Record], path: Path) -> None:
    """Writes a list of objects that all have the same first seven keys; null is not measured."""
    complete = [dict.fromkeys(_COMMON) | dict(record) for record in records]
    with written_whole(path) as scratch:
        scratch.write_text(json.dumps(complete, indent=1) + "\n", encoding="utf-8")


def write_markdown(
    machine: str, records: Sequence[Record], notes: Sequence[str], path: Path
) -> None:
    """Writes the table under a description of the machine, then what there is to say beside it."""
    table = "\n".join([HEADER, *map(line, records)])
    with written_whole(path) as scratch:
        scratch.write_text("\n\n".join([machine, table, *notes]) + "\n", encoding="utf-8")


def _cell(record: Record, key: str) -> str:
    value = record.get(key)
    return "" if value is None else format(value, _FORMATS.get(key, ""))
