"""Tables as the pages in docs have them; part of benchmarks/report.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.common import cell


def row(cells: list[str]) -> str:
    """Return one line of a markdown table."""
    return "| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |"


def table(content: Mapping[str, Any]) -> str:
    """Return a titled markdown table."""
    columns = content["columns"]
    lines = [row(columns), row(["---"] * len(columns)), *[row([cell(value) for value in r]) for r in content["rows"]]]
    return f"**{content['title']}**\n\n" + "\n".join(lines)
