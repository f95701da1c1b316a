"""RESULTS.md, runs.csv, plots and one HTML file from finished runs."""

import base64
import html
import os
import re
from collections import defaultdict
from pathlib import Path

import markdown
import numpy as np
from matplotlib import pyplot as plt

from slu_kd_lobes.bundled import bundled
from slu_kd_lobes.experiments.noise import condition_name
from slu_kd_lobes.experiments.outcomes import (
    compare,
    correct_for_many,
    length_groups,
    shares,
    summarise,
)
from slu_kd_lobes.experiments.statistics import risk_coverage
from slu_kd_lobes.files import write_csv, write_text_atomically
from slu_kd_lobes.report import save_figure

#: What follows this line in RESULTS.md is kept.
BY_HAND = "<!-- written by hand below -->"

LEGEND = """\
Every figure is from runs of this repository. *Error*: utterances with a wrong
slot, in percent, of the last epoch; mean ± standard deviation over runs (draws
of the training data, or seeds). *Best epoch*: the same, of the epoch with the
lowest validation error. *Errors*: mean number of a run, and the 95 % Wilson
interval of its rate. *Difference*: to the reference, over the same draws and
seeds, with the 95 % interval and p of the paired t test; *p, adjusted*: for
all comparisons of the table (Benjamini and Hochberg). *Over speakers*, *over
wordings*: 95 % interval of the difference when speakers, or wordings, of the
test set are drawn anew (bootstrap). *McNemar*: exact, on the same utterances;
median p of the pairs of runs. *NLL* and *ECE*: negative log likelihood in nats
and expected calibration error. A difference whose intervals hold 0 is not
shown to be one."""


TEACHERS = """\
*Beyond two numbers*: share of the variance of a teacher's logits, over the
training transcripts, that is left when one number stands for the true values
and another for the rest. *Beyond the intent*: when the mean over the
transcripts of an intent stands for each; all that a teacher says of a single
wording."""


COLUMNS = (
    "system",
    "error %",
    "runs",
    "best epoch",
    "errors",
    "difference",
    "p",
    "p, adjusted",
    "over speakers",
    "over wordings",
    "McNemar",
    "NLL",
    "ECE",
    "paper",
)


def write_report(folder, matrices, outcomes):
    """Writes everything that the runs show.

    Arguments
    ---------
    folder : str or Path
        Takes RESULTS.md and ``results`` with runs.csv, report.html, figures.
    matrices : list of Matrix
    outcomes : list of dict
        As `read_outcomes` gives them, one a matrix.

    Returns
    -------
    list of Path
        What was written.
    """
    folder = Path(folder)
    figures = folder / "results" / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    configs = os.path.relpath(bundled("hparams"), folder)
    paths = [folder / "RESULTS.md", folder / "results" / "runs.csv"]
    write_runs(paths[1], outcomes)
    parts = [f"# Results\n\n{LEGEND}\n\n{_made_with(outcomes)}\n"]
    for matrix, found in zip(matrices, outcomes):
        parts.append(section(matrix, found, configs))
        drawn = draw_figures(matrix, found, figures)
        for path, caption in drawn:
            parts.append(f"![{caption}]({path.relative_to(folder)})\n")
        paths += [path for path, _ in drawn]
    text = "\n".join(parts)
    if paths[0].is_file():
        old = paths[0].read_text(encoding="utf-8")
        if BY_HAND in old:
            text += f"\n{BY_HAND}{old.split(BY_HAND, 1)[1]}"
    write_text_atomically(paths[0], text)
    paths.append(folder / "results" / "report.html")
    write_html(paths[-1], text, folder)
    return paths


def _all(outcomes):
    return [o for found in outcomes for runs in found.values() for o in runs]


def _made_with(outcomes):
    """One sentence on commits, versions and time."""
    metrics = {o.folder: o.metrics for o in _all(outcomes) if o.metrics}
    if not metrics:
        return "No run is finished."
    commits = sorted({str(m["commit"])[:9] for m in metrics.values()})
    versions = {
        f"{name} {version}"
        for m in metrics.values()
        for name, version in m["versions"].items()
    }
    hours = sum(m["seconds"]["train"] for m in metrics.values()) / 3600
    return (
        f"{len(metrics)} runs, {hours:.1f} core hours of training; commit "
        f"{', '.join(commits)}; {', '.join(sorted(versions))}."
    )


def write_runs(path, outcomes):
    """One row a run: settings and errors.

    Arguments
    ---------
    path : str or Path
        A CSV file.
    outcomes : list of dict
    """
    rows, tests = {}, {}
    for outcome in _all(outcomes):
        run, metrics = outcome.run, outcome.metrics
        row = {
            "system": run.system,
            "config": Path(run.arguments[0]).stem,
            "condition": run.condition,
            "train_fraction": "",
            "subset_seed": run.draw,
            "seed": run.seed,
            "run": outcome.folder.name,
            "state": "finished" if metrics else "failed or missing",
        }
        if metrics:
            row["train_fraction"] = metrics["train_fraction"]
            row["n_train"] = metrics["n_train"]
            row["commit"] = metrics["commit"]
            row["train_seconds"] = metrics["seconds"]["train"]
            for epoch, found in metrics["intent_error_by_epoch"].items():
                for split, error in found.items():
                    name = f"{split}_error_{epoch}_epoch"
                    row[name] = tests[name] = error
            row["nll"] = metrics["test"]["nll"]
            row["ece"] = metrics["test"]["ece"]
        rows.setdefault((outcome.folder, run.system, run.condition), row)
    write_csv(path, list(rows.values()))


def shown_sets(matrix, found):
    """Test sets of a condition's runs that the matrix shows."""
    for outcome in found:
        if outcome.metrics:
            sets = outcome.metrics["intent_error_by_epoch"]["last"]
            tests = [name for name in sets if name != "valid"]
            return [name for name in sets if name in (matrix.tests or tests)]
    return []


def section(matrix, outcomes, configs="hparams"):
    """The tables of a matrix, in Markdown.

    Arguments
    ---------
    matrix : Matrix
    outcomes : dict
    configs : str
        Folder of the configurations, as a link.

    Returns
    -------
    str
    """
    lines = [f"## {matrix.title}", "", matrix.about.strip(), ""]
    for condition in matrix.conditions:
        own = {
            system: runs
            for (place, system), runs in outcomes.items()
            if place == condition
        }
        everything = [o for runs in own.values() for o in runs]
        splits = shown_sets(matrix, everything)
        if not splits:
            reason = "No run is finished." if own else "The corpus lacks it."
            lines += [f"### {condition}", "", reason, ""]
        for split in splits:
            rows = results_rows(matrix, condition, own, split, configs)
            size = sorted(
                {o.metrics["n_train"] for o in everything if o.metrics}
            )
            ends = size if len(size) < 3 else (size[0], size[-1])
            sizes = " to ".join(f"{n:,}" for n in ends)
            items = next(row["items"] for row in rows if "items" in row)
            lines += [
                f"### {condition}: `{split}`",
                "",
                f"{sizes} training utterances; {items:,} "
                f"utterances in `{split}`. Reference: {matrix.reference}.",
                "",
                *_table(rows, COLUMNS),
                "",
            ]
        if matrix.breakdown and splits:
            lines += breakdown(matrix, own, splits[0])
    rows = teacher_rows(outcomes)
    if rows:
        lines += ["### What the teachers say beyond the labels", ""]
        lines += [TEACHERS, "", *_table(rows), ""]
    return "\n".join(lines)


def teacher_rows(outcomes):
    """One row a teacher of a condition: its errors, and what it knows.

    Arguments
    ---------
    outcomes : dict
        As `read_outcomes` gives them.

    Returns
    -------
    list of dict
        Text by column; runs that name no teacher have none.
    """
    found = defaultdict(list)
    for (condition, _), runs in outcomes.items():
        for metrics in (o.metrics for o in runs if o.metrics):
            main = metrics["main_test"]
            for name, said in metrics.get("teachers", {}).items():
                # Systems and seeds share them: each counts once.
                # Sentence vectors name no values, and so make no errors.
                numbers = (
                    said["errors"].get("train"),
                    said["errors"].get(main),
                    said.get("beyond_values"),
                    said["beyond_intent"],
                )
                if numbers not in found[condition, name]:
                    found[condition, name].append(numbers)
    titles = (
        "wrong, training transcripts %",
        "wrong, test transcripts %",
        "beyond two numbers %",
        "beyond the intent %",
    )
    return [
        {
            "condition": condition,
            "teacher": name,
            "training sets": str(len(teachers)),
            **{
                title: _mean_and_range(values)
                for title, values in zip(titles, zip(*teachers))
            },
        }
        for (condition, name), teachers in found.items()
    ]


def _mean_and_range(values):
    """A mean, and the range where there is one.

    Example
    -------
    >>> _mean_and_range([1.0, 2.0]), _mean_and_range([0.5, 0.5])
    ('1.50 (1.00–2.00)', '0.50')
    >>> _mean_and_range([None])
    ''
    """
    if None in values:
        return ""
    mean = f"{np.mean(values):.2f}"
    if max(values) == min(values):
        return mean
    return f"{mean} ({min(values):.2f}–{max(values):.2f})"


def results_rows(matrix, condition, own, split, configs):
    """One row a system.

    Arguments
    ---------
    matrix : Matrix
    condition : str
    own : dict
        Outcomes of the condition, by system.
    split : str
    configs : str
        Folder of the configurations, as a link.

    Returns
    -------
    list of dict
        Text by column.
    """
    compared = {
        system: compare(runs, own[matrix.reference], split)
        for system, runs in own.items()
        if system != matrix.reference and matrix.reference in own
    }
    compared = {name: test for name, test in compared.items() if test}
    adjusted = dict(
        zip(
            compared,
            correct_for_many([test["p"] for test in compared.values()]),
        )
    )
    rows = []
    for system, runs in own.items():
        facts = matrix.systems[system]
        config = Path(facts["config"]).name
        row = {"system": f"[{system}]({configs}/{config})"}
        if facts.get("overrides"):
            row["system"] += "*"
        found = summarise(runs, split)
        paper = facts.get("paper", {}).get(condition, "")
        if found is None:
            rows.append({**row, "error %": "failed", "paper": str(paper)})
            continue
        spread = "" if found["sd"] is None else f" ± {found['sd']:.2f}"
        runs_text = str(len(found["errors"]))
        if found["failed"]:
            runs_text += f" ({found['failed']} failed)"
        row |= {
            "error %": f"{found['mean']:.2f}{spread}",
            "runs": runs_text,
            "best epoch": f"{found['best']:.2f}",
            "errors": f"{found['wrong']:.1f} ({found['low']:.2f}–"
            f"{found['high']:.2f} %)",
            "items": found["items"],
        }
        test = compared.get(system)
        if test:
            row |= {
                "difference": f"{test['difference']:+.2f}"
                + _interval(test["low"], test["high"]),
                "p": _p(test["p"]),
                "p, adjusted": _p(adjusted[system]),
                "over speakers": _interval(*test["speakers"]).strip(),
                "over wordings": _interval(*test["wordings"]).strip(),
                "McNemar": _p(test["mcnemar"]),
            }
        row |= {"NLL": f"{found['nll']:.3g}", "ECE": f"{found['ece']:.3f}"}
        rows.append({**row, "paper": str(paper)})
    rows.sort(key=lambda row: row["system"].find(matrix.reference) != 1)
    return rows


def _interval(low, high):
    if np.isnan(low):
        return ""
    return f" [{low:+.2f}, {high:+.2f}]"


def _p(value):
    if np.isnan(value):
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _table(rows, columns=None):
    """Rows as Markdown, without columns that are empty."""
    names = columns or dict.fromkeys(key for row in rows for key in row)
    names = [n for n in names if any(row.get(n) for row in rows)]
    lines = ["| " + " | ".join(names) + " |"]
    lines.append("|---" + "|---:" * (len(names) - 1) + "|")
    for row in rows:
        cells = [str(row.get(name, "")) for name in names]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def breakdown(matrix, own, split):
    """Errors by slot, speaker and length, in Markdown.

    Arguments
    ---------
    matrix : Matrix
    own : dict
        Outcomes of a condition, by system.
    split : str

    Returns
    -------
    list of str
        Lines.
    """
    lines = []
    views = {
        "speaker": lambda items: items["speaker"],
        "length": length_groups,
    }
    for title, groups in views.items():
        rows = {}
        for system, runs in own.items():
            if not any(o.block(split) for o in runs):
                continue
            for name, (error, items) in shares(runs, split, groups).items():
                row = rows.setdefault(name, {title: name, "n": items})
                row[system] = f"{error:.2f}"
        lines += [f"Error on `{split}` by {title}, in percent:", ""]
        lines += [*_table(list(rows.values())), ""]
    rows = []
    for system, runs in own.items():
        blocks = [o.block(split)["slot_error"] for o in runs if o.block(split)]
        if blocks:
            means = {
                slot: f"{np.mean([b[slot] for b in blocks]):.2f}"
                for slot in blocks[0]
            }
            rows.append({"system": system, **means})
    lines += [f"Error of each slot on `{split}`, in percent:", ""]
    return [*lines, *_table(rows), ""]


def draw_figures(matrix, outcomes, folder):
    """Every plot that the runs of a matrix allow.

    Arguments
    ---------
    matrix : Matrix
    outcomes : dict
    folder : Path

    Returns
    -------
    list of tuple
        Path and caption.
    """
    drawn = []
    for name, draw, caption in (
        ("size", draw_sizes, "Error against the number of utterances"),
        ("noise", draw_noise, "Error against the signal-to-noise ratio"),
        ("risk", draw_risk, "Error among the most confident answers"),
        ("training", draw_training, "Weight and size of the losses"),
    ):
        figure = draw(matrix, outcomes)
        if figure is not None:
            path = folder / f"{matrix.name}_{name}.png"
            save_figure(figure, path)
            drawn.append((path, f"{matrix.title}: {caption}"))
    return drawn


def _by_system(matrix, outcomes):
    return {
        system: {
            condition: outcomes[condition, system]
            for condition in matrix.conditions
            if (condition, system) in outcomes
        }
        for system in matrix.systems
    }


def _draw_lines(points, xlabel, log=False):
    """Error against something: mean and range of the runs, by system."""
    figure, axis = plt.subplots(figsize=(6.5, 4), layout="constrained")
    for system, values in points.items():
        x = sorted(values)
        means = [np.mean(values[i]) for i in x]
        spread = [np.std(values[i], ddof=len(values[i]) > 1) for i in x]
        (line,) = axis.plot(x, means, marker="o", label=system)
        axis.fill_between(
            x,
            np.subtract(means, spread),
            np.add(means, spread),
            color=line.get_color(),
            alpha=0.15,
        )
    if log:
        axis.set(xscale="log", yscale="log")
    axis.set(xlabel=xlabel, ylabel="error (%), mean ± s.d.")
    axis.grid(alpha=0.3, which="both")
    axis.legend(fontsize="small")
    return figure


def draw_sizes(matrix, outcomes):
    """Error against training utterances, by system; None with one size."""
    points = {}
    for system, conditions in _by_system(matrix, outcomes).items():
        values = {}
        for condition, runs in conditions.items():
            if "csv_folder" in matrix.conditions[condition]:
                continue  # other data, not only less
            for outcome in runs:
                if outcome.metrics:
                    size = outcome.metrics["n_train"]
                    error = outcome.metrics["test"]["intent_error"]
                    values.setdefault(size, []).append(error)
        if len(values) > 1:
            points[system] = values
    if not points:
        return None
    return _draw_lines(points, "training utterances", log=True)


def draw_noise(matrix, outcomes):
    """Error against the signal-to-noise ratio; None without noise."""
    noisy = {
        k: v["noise"] for k, v in matrix.conditions.items() if "noise" in v
    }
    if not noisy:
        return None
    first = next(iter(noisy))
    levels = [x for x in noisy[first]["levels"] if x != "room"]
    points = {}
    for system, conditions in _by_system(matrix, outcomes).items():
        blocks = {
            level: [o.block(condition_name(level)) for o in conditions[first]]
            for level in levels
            if first in conditions
        }
        points[system] = {
            level: [b["intent_error"] for b in found if b]
            for level, found in blocks.items()
            if any(found)
        }
    points = {name: values for name, values in points.items() if values}
    return _draw_lines(points, "signal-to-noise ratio (dB)") if points else None


def draw_risk(matrix, outcomes):
    """Risk against coverage of each system's first run; None elsewhere."""
    if not matrix.breakdown:
        return None
    figure, axis = plt.subplots(figsize=(6.5, 4), layout="constrained")
    for system, conditions in _by_system(matrix, outcomes).items():
        runs = [o for found in conditions.values() for o in found if o.metrics]
        if runs:
            items = runs[0].items(runs[0].metrics["main_test"])
            coverage, risk, area = risk_coverage(
                items["confidence"], items["wrong"]
            )
            label = f"{system} (area {100 * area:.2f} %)"
            axis.plot(100 * coverage, 100 * risk, label=label)
    axis.set(xlabel="share that is answered (%)", ylabel="error among it (%)")
    axis.grid(alpha=0.3)
    if axis.lines:
        axis.legend(fontsize="small")
        return figure
    plt.close(figure)
    return None


def draw_training(matrix, outcomes):
    """β, cross entropy and distillation over epochs, first run of each."""
    panels = {
        "β": "train_beta",
        "cross entropy": "train_ce",
        "distillation": "train_kd",
    }
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for system, conditions in _by_system(matrix, outcomes).items():
        runs = [o for found in conditions.values() for o in found if o.metrics]
        if not runs:
            continue
        history = runs[0].metrics["history"]
        for axis, (title, key) in zip(axes, panels.items()):
            rows = [row for row in history if key in row]
            axis.plot(
                [row["epoch"] for row in rows],
                [row[key] for row in rows],
                label=system,
            )
            axis.set(xlabel="epoch", title=title)
            axis.grid(alpha=0.3)
    if not axes[1].lines:
        plt.close(figure)
        return None
    for axis in axes[1:]:
        axis.set_yscale("log")
    axes[2].legend(fontsize="x-small", ncols=2)
    return figure


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem;
       max-width: 75rem; color: #222; background: #fff }
h1, h2, h3 { line-height: 1.2 }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: 0.85rem; white-space: nowrap }
th, td { border-bottom: 1px solid #ddd; padding: 0.3rem 0.6rem }
tr:hover { background: #f3f6fb }
img { max-width: 100%; height: auto }
"""


def write_html(path, text, folder):
    """The Markdown as one file with its figures, readable on a phone.

    Arguments
    ---------
    path : str or Path
    text : str
        Markdown.
    folder : Path
        Which the paths of figures are relative to.
    """
    body = markdown.markdown(text, extensions=["tables"])
    body = body.replace("<table>", '<div class="wide"><table>')
    body = body.replace("</table>", "</table></div>")

    def inline(match):
        file = folder / html.unescape(match[1])
        if not file.is_file():
            return match[0]
        content = base64.b64encode(file.read_bytes()).decode()
        return f'src="data:image/png;base64,{content}"'

    body = re.sub(r'src="([^"]+\.png)"', inline, body)
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Results</title><style>{STYLE}</style></head>"
        f"<body>{body}</body></html>\n"
    )
    write_text_atomically(path, page)
