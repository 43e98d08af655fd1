"""The scorecard for people: as Markdown, and as a compact table for a terminal."""

from collections.abc import Iterable

import pandas as pd

from core.verify.kinds import CURVES, MAIN
from core.verify.optimum import OPTIMUM
from core.verify.scorecard import defined_metric

SHOWN = ("mae", "rmse", "bias", "spread_skill", "coverage_50", "coverage_90", "coverage_95", "pit_distance", "nll")
BY_LEAD = {"spread_skill": ("Spread over error, 1 where calibrated", 2),
           "coverage_90": ("Share of observations in the central 90 % interval", 3)}  # fmt: skip
_HOLDOUT_WORDS = {
    "region": "new region",
    "time": "new time",
    "both": "new region and new time",
    "all": "all held-out windows",
    "": "all windows",
}


def holdout_words(holdout: str) -> str:
    return _HOLDOUT_WORDS.get(holdout, holdout)


def headline(holdouts: Iterable[str]) -> str:
    """The hold-out that tells most: what is new in region and time, as a forecaster will meet it, else all together."""
    present = list(dict.fromkeys(holdouts))
    return next((h for h in ("both", "all", "region", "time") if h in present), present[0])


def headline_windows(windows: pd.DataFrame) -> pd.DataFrame:
    """The windows that the headline of their scorecard is about."""
    present = windows["holdout"].unique()
    holdout = headline([*present, "all"] if len(present) > 1 else present)
    return windows if holdout == "all" else windows[windows["holdout"] == holdout]


def compact_table(table: pd.DataFrame) -> str:
    """CRPS per lead time, with spread-skill and 90 % coverage over all leads: what a terminal line can hold."""
    chosen = choose(table)
    leads, rows = leads_of(chosen), []
    header = ["learner", *(f"{lead} min" for lead in leads), "all", "95 % interval", "RMSE", "spread/skill", "cover 90"]
    for learner in chosen["learner"][~chosen["kind"].isin(CURVES)].unique():
        own = chosen[chosen["learner"] == learner]
        whole = defined_metric(own, "crps")
        whole = whole[whole["lead_time"] == 0]
        rows.append(
            [
                learner,
                *(_value(own, "crps", lead, 4) for lead in leads),
                _value(own, "crps", 0, 4),
                interval_words(whole.iloc[0]) if len(whole) else "-",
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


def markdown_table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Its lines."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def markdown(table: pd.DataFrame) -> str:
    """The table as Markdown: for each hold-out CRPS and calibration by lead time, the other metrics, and the curves."""
    only_channel = table["channel"].nunique() == 1
    parts = []
    for (split, holdout, channel), whole in table.groupby(["split", "holdout", "channel"], sort=False):
        on_curve = whole["kind"].isin(CURVES)
        group, curves = whole[~on_curve], whole[on_curve]
        title = f"## {split}: {holdout_words(str(holdout))}"
        parts += [title if only_channel else f"{title}, {channel}", ""]
        size = group.iloc[0]
        parts += [f"{size['windows']} windows in {size['blocks']} blocks. CRPS with 95 % intervals:", ""]
        parts += markdown_table(*by_lead(group, "crps"))
        shown = [m for m in SHOWN if m in set(group["metric"])]
        shown += [
            m for m in dict.fromkeys(group["metric"]) if m.startswith(("brier@", "csi@", "fss_9@", "power_ratio_4"))
        ]
        if (group["metric"] == "crps_ratio").any():
            parts += [
                "",
                "CRPS as a ratio to that of the optimum, which no forecast from the same inputs can better:",
                "",
            ]
            parts += markdown_table(*by_lead(group, "crps_ratio", OPTIMUM, 3))
        for metric, (words, digits) in BY_LEAD.items():
            if (group["metric"] == metric).any():
                parts += ["", f"{words}:", "", *markdown_table(*by_lead(group, metric, digits=digits))]
        parts += ["", "Over all lead times:", "", *_over_allleads_of(group, shown), ""]
        if len(curves):
            parts += ["CRPS by number of support windows (N_S) and of inner steps (M):", ""]
            parts += [*markdown_table(*by_lead(curves, "crps")), ""]
    return "\n".join(parts)


def training(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """What the learned rows cost to train: header, and a row each, whose time is compared with the first one's."""
    learned = table[table["kind"].isin(MAIN)].drop_duplicates("learner")
    rows = []
    for row in learned.to_dict("records"):
        known = row["training_seconds"] > 0 < learned["training_seconds"].iloc[0]
        share = f"{row['training_seconds'] / learned['training_seconds'].iloc[0]:.2f}" if known else "-"
        seconds = f"{row['training_seconds']:,.0f}" if row["training_seconds"] else "not recorded"
        rows.append([row["learner"], f"{row['weights']:,}", f"{row['training_steps']:,}", seconds, share])
    return ["trained", "weights", "steps", "seconds", "time / the first's"], rows


def by_lead(
    group: pd.DataFrame, metric: str, reference: str = "", digits: int = 4
) -> tuple[list[str], list[list[str]]]:
    """A table of one metric with its intervals: header, and a row a learner that has it, of cells by lead time."""
    own = defined_metric(group, metric, reference)
    leads = [*leads_of(group), 0]
    rows = []
    for learner, values in own.groupby("learner", sort=False):
        cells = {int(row["lead_time"]): _cell(row, digits) for _, row in values.iterrows()}
        rows.append([str(learner), *(cells.get(lead, "-") for lead in leads)])
    return ["learner", *(f"{lead} min" if lead else "all leads" for lead in leads)], rows


def choose(table: pd.DataFrame) -> pd.DataFrame:
    """One split and hold-out: test before validation, the headline, all channels together."""
    split = "test" if "test" in set(table["split"]) else table["split"].iloc[0]
    chosen = table[table["split"] == split]
    chosen = chosen[chosen["holdout"] == headline(chosen["holdout"])]
    channels = set(chosen["channel"])
    return chosen[chosen["channel"] == ("all" if "all" in channels else chosen["channel"].iloc[0])]


def leads_of(table: pd.DataFrame) -> list[int]:
    return sorted(int(lead) for lead in table["lead_time"].unique() if lead > 0)


def _value(own: pd.DataFrame, metric: str, lead: int, digits: int) -> str:
    rows = own[(own["metric"] == metric) & (own["reference"] == "") & (own["lead_time"] == lead)]
    return f"{rows['value'].iloc[0]:.{digits}f}" if len(rows) else "-"


def interval_words(row: pd.Series, digits: int = 4) -> str:
    """The interval of a value, or why it has none; it may also be undefined."""
    if row["low"] == row["low"]:
        return f"[{row['low']:.{digits}f}, {row['high']:.{digits}f}]"
    return "one block" if row["blocks"] == 1 else "-"


def _cell(row: pd.Series, digits: int = 4) -> str:
    return f"{row['value']:.{digits}f}" + (f" {interval_words(row, digits)}" if row["low"] == row["low"] else "")


def _over_allleads_of(group: pd.DataFrame, metrics: list[str]) -> list[str]:
    owns = [(learner, group[group["learner"] == learner]) for learner in group["learner"].unique()]
    rows = [[learner, *(_value(own, metric, 0, 3) for metric in metrics)] for learner, own in owns]
    return markdown_table(["learner", *metrics], rows)
