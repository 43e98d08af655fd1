"""The scorecard as Markdown, and as one HTML page that needs nothing beside it, with plots and moving forecasts."""

import base64
import html
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from core.verify.cuts import grids
from core.verify.kinds import CURVES
from core.verify.optimum import OPTIMUM
from core.verify.tables import (
    BY_LEAD,
    SHOWN,
    by_lead,
    holdout_words,
    interval_words,
    markdown,
    markdown_table,
    training,
)
from core.verify.verdicts import heading, other_pairs, verdicts

_OF_CUTS = "CRPS over all lead times and kinds of hold-out, with 95 % intervals."
_OF_TRAINING = (
    "What made the checkpoints that forecast, a sum over the networks of an ensemble. Adapting, which each forecast "
    "does anew, is not in it, nor what a fork began from."
)
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1180px; margin: 2rem auto; padding: 0 1rem; color: #1c1f24 }
h1 { margin-bottom: .2em } h2 { margin-top: 2.2em; border-bottom: 1px solid #d5d9de; padding-bottom: .2em }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .8em 0; font-size: 13.5px }
th, td { padding: .28em .75em; text-align: right; border-bottom: 1px solid #e5e8ec; white-space: nowrap }
th:first-child, td:first-child { text-align: left } thead th { border-bottom: 2px solid #9aa3ad }
td.best { font-weight: 700 } img { max-width: 100%; height: auto } .note { color: #555e68; font-size: 13.5px }
.scroll { overflow-x: auto } small { color: #6b747e }
"""


def scorecard_markdown(table: pd.DataFrame, cuts: pd.DataFrame, notes: Sequence[str]) -> str:
    """Verdicts first, then the tables, and a paragraph a note."""
    parts = ["# Scorecard", "", f"## {heading(table)}", "", *(f"- {line}" for line in verdicts(table)), ""]
    header, rows = other_pairs(table)
    parts += ["Further paired differences:", "", *markdown_table(header, rows), ""] if rows else []
    parts += [markdown(table), "## Cuts", "", _OF_CUTS, ""]
    for header, rows in grids(cuts):
        parts += [*markdown_table(header, rows), ""]
    parts += ["## Training", "", _OF_TRAINING, "", *markdown_table(*training(table)), ""]
    parts += ["## Notes", *(f"\n{note}" for note in notes)]
    return "\n".join(parts) + "\n"


def scorecard_page(table: pd.DataFrame, cuts: pd.DataFrame, notes: Sequence[str], pictures: Mapping[str, Path]) -> str:
    """The page. `pictures` maps a caption to a PNG, still or moving, which is put into the page itself."""
    parts = [
        f"<h1>Scorecard</h1><h2>{html.escape(heading(table))}</h2><ul>",
        *(f"<li>{html.escape(line)}</li>" for line in verdicts(table)),
        "</ul>",
    ]
    header, rows = other_pairs(table)
    parts += ["<p>Further paired differences:</p>", _table(header, rows)] if rows else []
    parts += ["<h2>Forecasts and scores</h2>", *(_figure(caption, path) for caption, path in pictures.items())]
    for (split, holdout, channel), whole in _widest_first(table):
        on_curve = whole["kind"].isin(CURVES)
        group, curves = whole[~on_curve], whole[on_curve]
        size = group.iloc[0]
        title = f"{split}: {holdout_words(str(holdout))}" + ("" if table["channel"].nunique() == 1 else f", {channel}")
        parts += [f"<h2>{html.escape(title)}</h2>", f"<p>{size['windows']} windows in {size['blocks']} blocks.</p>"]
        parts += [_score_table(group, "crps", "", "CRPS")]
        if (group["metric"] == "crps_ratio").any():
            parts += [_score_table(group, "crps_ratio", OPTIMUM, "CRPS / CRPS of the optimum")]
        parts += [_metric_table(group, [m for m in SHOWN if m != "crps"])]
        for metric, (words, digits) in BY_LEAD.items():
            if (group["metric"] == metric).any():
                header, rows = by_lead(group, metric, digits=digits)
                parts.append(_table([words, *header[1:]], rows))
        rest = [m for m in dict.fromkeys(group["metric"]) if "@" in m or m.startswith("power_ratio")]
        parts += (
            [_score_table(curves, "crps", "", "CRPS by support windows (N_S) and inner steps (M)")]
            if len(curves)
            else []
        )
        parts += ["<details><summary>Events and texture</summary>", _metric_table(group, rest), "</details>"]
    parts.append(f"<h2>Cuts</h2><p>{_OF_CUTS}</p>")
    parts += [_table(header, rows) for header, rows in grids(cuts)]
    parts += [f"<h2>Training</h2><p>{_OF_TRAINING}</p>", _table(*training(table))]
    parts += ["<h2>Notes</h2>", *(f'<p class="note">{html.escape(note)}</p>' for note in notes)]
    body = "\n".join(parts)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Scorecard</title>'
        f"<style>{_STYLE}</style></head><body>{body}</body></html>"
    )


def _widest_first(table: pd.DataFrame) -> list[tuple[tuple[Hashable, ...], pd.DataFrame]]:
    """The parts of the table, those that are new in space and time first: they are what a forecaster will meet."""
    parts = list(table.groupby(["split", "holdout", "channel"], sort=False))
    return sorted(parts, key=lambda part: part[0][1] != "both")


def _figure(caption: str, path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption><small>{html.escape(caption)}</small></figcaption></figure>"
    )


def _score_table(group: pd.DataFrame, metric: str, reference: str, title: str) -> str:
    own = group[(group["metric"] == metric) & (group["reference"] == reference)]
    grid = own.pivot_table(index="learner", columns="lead_time", values="value", sort=False)
    grid = grid[[*sorted(c for c in grid.columns if c), 0]]
    widths = own[own["lead_time"] == 0].set_index("learner")
    rows = _rows(grid)
    for row, learner in zip(rows, grid.index, strict=True):
        row.append(interval_words(widths.loc[learner]))
    return _table([title, *(f"{lead} min" if lead else "all" for lead in grid.columns), "95 % interval"], rows)


def _metric_table(group: pd.DataFrame, wanted: Sequence[str]) -> str:
    own = group[(group["reference"] == "") & (group["lead_time"] == 0) & group["metric"].isin(wanted)]
    grid = own.pivot_table(index="learner", columns="metric", values="value", sort=False)
    grid = grid[[metric for metric in wanted if metric in grid.columns]]
    names = [metric.replace("@", " of ").replace("_", " ") for metric in grid.columns]
    return _table(["over all lead times", *names], _rows(grid, best=False))


def _rows(grid: pd.DataFrame, best: bool = True) -> list[list[str]]:
    least = grid.min() if best else None
    rows = []
    for learner, values in grid.iterrows():
        cells = [f"{v:.4f}" if v == v else "-" for v in values]
        if least is not None:
            cells = [f"*{c}" if v == low else c for c, v, low in zip(cells, values, least, strict=True)]
        rows.append([str(learner), *cells])
    return rows


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    lines = []
    for row in rows:
        cells = "".join(
            f'<td class="best">{html.escape(cell[1:])}</td>'
            if cell.startswith("*")
            else f"<td>{html.escape(cell)}</td>"
            for cell in row
        )
        lines.append(f"<tr>{cells}</tr>")
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
