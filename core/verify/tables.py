"""The scorecard for people: Markdown, a compact table for a terminal, and one verdict in words per learner."""

import pandas as pd

from core.verify.optimum import OPTIMUM
from core.verify.scorecard import defined_metric

SHOWN = ("mae", "rmse", "bias", "spread_skill", "coverage_50", "coverage_90", "coverage_95", "pit_distance", "nll")
_HOLDOUT_WORDS = {
    "region": "new region",
    "time": "new time",
    "both": "new region and new time",
    "all": "all held-out windows",
    "": "all windows",
}


def holdout_words(holdout: str) -> str:
    return _HOLDOUT_WORDS.get(holdout, holdout)


def is_control(learner: str) -> bool:
    """Whether a row is a control or a point of a curve, which crowd a picture of the learners."""
    return "shuffled" in learner or ", N_S = " in learner or "(curve)" in learner


def compact_table(table: pd.DataFrame, holdout: str = "") -> str:
    """CRPS per lead time, with spread-skill and 90 % coverage over all leads: what a terminal line can hold."""
    chosen = _choose(table, holdout)
    leads, rows = _leads(chosen), []
    header = ["learner", *(f"{lead} min" for lead in leads), "all", "95 % interval", "RMSE", "spread/skill", "cover 90"]
    for learner in chosen["learner"].unique():
        if ", N_S = " in learner or "(curve)" in learner:
            continue
        own = chosen[chosen["learner"] == learner]
        whole = defined_metric(own, "crps")
        whole = whole[whole["lead_time"] == 0]
        rows.append(
            [
                learner,
                *(_value(own, "crps", lead, 4) for lead in leads),
                _value(own, "crps", 0, 4),
                _interval(whole.iloc[0]) if len(whole) else "-",
                _value(own, "rmse", 0, 4),
                _value(own, "spread_skill", 0, 2),
                _value(own, "coverage_90", 0, 3),
            ]
        )
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in [header, *rows]
    ]
    first = chosen.iloc[0]
    title = f"CRPS (lower is better; standardised units) on {first['split']}, {holdout_words(first['holdout'])}"
    return "\n".join([title, lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown(table: pd.DataFrame, notes: list[str], verdicts: list[str]) -> str:
    """The scorecard as Markdown: notes, verdicts, then for each hold-out CRPS by lead time and the other metrics."""
    only_channel = table["channel"].nunique() == 1
    parts = ["# Scorecard", *notes, "", *(f"- {line}" for line in verdicts), ""]
    for (split, holdout, channel), group in table.groupby(["split", "holdout", "channel"], sort=False):
        leads = _leads(group)
        title = f"## {split}: {holdout_words(str(holdout))}"
        parts += [title if only_channel else f"{title}, {channel}", ""]
        size = group.iloc[0]
        parts += [f"{size['windows']} windows in {size['blocks']} blocks. CRPS with 95 % intervals:", ""]
        parts += _markdown_rows(["learner", *(f"{lead} min" for lead in leads), "all leads"])
        for learner in group["learner"].unique():
            own = defined_metric(group[group["learner"] == learner], "crps")
            by_lead = {int(row["lead_time"]): _cell(row) for _, row in own.iterrows()}
            cells = [by_lead.get(lead, "-") for lead in [*leads, 0]]
            parts.append(f"| {learner} | " + " | ".join(cells) + " |")
        shown = [m for m in SHOWN if m in set(group["metric"])]
        shown += [
            m for m in dict.fromkeys(group["metric"]) if m.startswith(("brier@", "csi@", "fss_9@", "power_ratio_4"))
        ]
        ratios = group[group["metric"] == "crps_ratio"]
        if len(ratios):
            parts += [
                "",
                "CRPS as a ratio to that of the optimum, which no forecast from the same inputs can better:",
                "",
            ]
            parts += _markdown_rows(["learner", *(f"{lead} min" for lead in leads), "all leads"])
            for learner, own in ratios.groupby("learner", sort=False):
                by_lead = {int(row["lead_time"]): _cell(row, 3) for _, row in own.iterrows()}
                parts.append(f"| {learner!s} | " + " | ".join(by_lead.get(lead, "-") for lead in [*leads, 0]) + " |")
        parts += ["", "Over all lead times:", "", *_markdown_rows(["learner", *shown])]
        for learner in group["learner"].unique():
            own = group[group["learner"] == learner]
            parts.append(f"| {learner} | " + " | ".join(_value(own, metric, 0, 3) for metric in shown) + " |")
        parts.append("")
    return "\n".join(parts)


def verdicts(table: pd.DataFrame, holdout: str = "") -> list[str]:
    """How sure each learner rightly is; then for each pair at which lead times the paired interval leaves zero."""
    chosen = _choose(table, holdout)
    skill = chosen[chosen["metric"] == "crps_skill"]
    lines = [_sureness(chosen, str(name)) for name in skill["learner"].unique() if not is_control(str(name))]
    lines = [line for line in lines if line]
    compared = chosen[chosen["metric"] == "crps_difference"]  # which there is of every pair, unlike skill
    for learner, reference in compared[["learner", "reference"]].drop_duplicates().itertuples(index=False):
        if reference == OPTIMUM and is_control(str(learner)):
            continue
        rows = skill[(skill["learner"] == learner) & (skill["reference"] == reference)]
        if not (rows["lead_time"] == 0).any():
            lines.append(f"{learner} against {reference}: undefined, since the reference has no error")
            continue
        by_lead = rows[rows["lead_time"] > 0].sort_values("lead_time")
        if by_lead["low"].isna().all():
            lines.append(f"{learner} against {reference}: one block only, so no interval and no verdict")
            continue
        better = by_lead[by_lead["low"] > 0]["lead_time"].tolist()
        worse = by_lead[by_lead["high"] < 0]["lead_time"].tolist()
        words = [f"better at {_spans(better, by_lead['lead_time'].tolist())}"] if better else []
        words += [f"worse at {_spans(worse, by_lead['lead_time'].tolist())}"] if worse else []
        whole = rows[rows["lead_time"] == 0].iloc[0]
        lines.append(
            f"{learner} against {reference}: {' and '.join(words) or 'no clear difference at any lead time'}"
            f" (95 %); CRPS {-100 * whole['value']:+.1f} % [{-100 * whole['high']:+.1f}, {-100 * whole['low']:+.1f}]"
        )
    return lines


def _sureness(chosen: pd.DataFrame, learner: str) -> str:
    """In words, what share of the observations its intervals held; nothing for a point forecast."""
    own = chosen[(chosen["learner"] == learner) & (chosen["lead_time"] == 0)].set_index("metric")["value"]
    if "coverage_90" not in own or "spread_skill" not in own:
        return ""
    held, spread = 100 * own["coverage_90"], own["spread_skill"]
    word = (
        "about right" if 87 <= held <= 93 and 0.9 <= spread <= 1.1 else "too sure" if held < 90 else "not sure enough"
    )
    return f"{learner} is {word}: its 90 % intervals held {held:.0f} % of what came; spread over error {spread:.2f}"


def _choose(table: pd.DataFrame, holdout: str) -> pd.DataFrame:
    """One split and hold-out: test before validation, new region and time before the rest, all channels together."""
    split = "test" if "test" in set(table["split"]) else table["split"].iloc[0]
    chosen = table[table["split"] == split]
    present = set(chosen["holdout"])
    wanted = [holdout] if holdout else ["both", "all", "region", "time"]
    holdout = next((h for h in wanted if h in present), chosen["holdout"].iloc[0])
    chosen = chosen[chosen["holdout"] == holdout]
    channels = set(chosen["channel"])
    return chosen[chosen["channel"] == ("all" if "all" in channels else chosen["channel"].iloc[0])]


def _leads(table: pd.DataFrame) -> list[int]:
    return sorted(int(lead) for lead in table["lead_time"].unique() if lead > 0)


def _value(own: pd.DataFrame, metric: str, lead: int, digits: int) -> str:
    rows = own[(own["metric"] == metric) & (own["reference"] == "") & (own["lead_time"] == lead)]
    return f"{rows['value'].iloc[0]:.{digits}f}" if len(rows) else "-"


def _interval(row: pd.Series, digits: int = 4) -> str:
    return f"[{row['low']:.{digits}f}, {row['high']:.{digits}f}]" if row["low"] == row["low"] else "one block"


def _cell(row: pd.Series, digits: int = 4) -> str:
    return f"{row['value']:.{digits}f}" + (f" {_interval(row, digits)}" if row["low"] == row["low"] else "")


def _markdown_rows(header: list[str]) -> list[str]:
    return ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]


def _spans(chosen: list[int], every: list[int]) -> str:
    """Lead times as ranges: [30, 60, 120] of 30, 60, 90, 120 -> 30-60, 120 min."""
    runs: list[list[int]] = []
    for lead in every:
        if lead not in chosen:
            continue
        if runs and every.index(lead) == every.index(runs[-1][-1]) + 1:
            runs[-1].append(lead)
        else:
            runs.append([lead])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs) + " min"
