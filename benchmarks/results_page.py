"""The page and the plot of what fsc_scale.py has measured."""

from collections import namedtuple
from operator import itemgetter

from slu_kd_lobes.utils.files import write_text

PAGE = """\
# What a run costs at the size of Fluent Speech Commands

Written by `python benchmarks/fsc_scale.py`, on a stand-in corpus with the
number of utterances and the seconds of audio of the real one (mean 2.3 s).
One process at a time, on the CPU. An epoch is its training part, without
validation; the batch size is 64 everywhere.

* *Stored features*: `train.py hparams/distill_teacher_mae_exp.yaml`, median
  of its epochs; *bfloat16* and *torch.compile*: of three, with
  `--precision=bf16` and `--compile`, the latter with its compilation. *On the
  fly*: with `--features=on_the_fly`.
* *SpeechBrain, cached*: its `CachedDynamicItem`, data loader and `Brain`
  (`peer_speechbrain.py`). The cache is full; the loss is the cross entropy
  alone. Mean of two epochs.
* *end-to-end-SLU*: the reference of Lugosch et al. with a frozen encoder
  (`peer_end_to_end_slu.py`), as published and with the convolution of its
  SincNet layer moved out of the loop over the filters. It encodes the audio
  in every epoch. Timed on the batches given and scaled up to the epoch.
* *Bare forward pass*: the encoder on ready batches in memory, the same as
  those of the extraction, measured on an evenly spaced sample of them of at
  most about 2,000 utterances and scaled up by the padded seconds of audio.

![Time and memory against the number of utterances](results/scaling.png)

{tables}

{marker}
"""
MARKER = "<!-- written by hand below -->"

PATHS = {
    "stored": "stored features (this project)",
    "stored_bf16": "stored features, bfloat16",
    "stored_compiled": "stored features, torch.compile",
    "on_the_fly": "on the fly (this project)",
    "speechbrain_cached": "SpeechBrain, cached, a file an utterance",
    "speechbrain_cached_hdf5": "SpeechBrain, cached, HDF5",
    "reference_fixed": "end-to-end-SLU, filter loop fixed",
    "reference_published": "end-to-end-SLU, as published",
}
COSTS = {
    "prepare_seconds": "manifests (s)",
    "teacher_seconds": "teacher and its table (s)",
    "extraction_seconds": "features of the training set (s)",
    "extraction_forward_seconds": "bare forward pass of the same (s)",
    "extraction_peak_memory_mb": "peak memory of the extraction (MB)",
    "valid_epoch_seconds": "validation in an epoch (s)",
    "run_seconds": "whole run, features and teacher ready (s)",
    "peak_memory_mb": "peak memory of the run (MB)",
}

# `figure` gives what is compared with the bound, None if it was not measured.
# A goal with a scale applies to that one only.
Goal = namedtuple("Goal", "text sign bound figure scale", defaults=[None])


def epoch_ratio(name):
    """A function that says how many epochs of ours one of a path takes."""

    def ratio(figures):
        seconds = figures["train_epoch_seconds"]
        return seconds[name] / seconds["stored"] if name in seconds else None

    return ratio


def extraction_ratio(figures):
    """Time of the extraction by that of the bare forward pass."""
    return figures["extraction_seconds"] / figures["extraction_forward_seconds"]


def epoch_seconds(figures):
    """Seconds of an epoch on stored features."""
    return figures["train_epoch_seconds"]["stored"]


def run_seconds(figures):
    """Seconds of a run, if it had as many epochs as the goal."""
    return figures["run_seconds"] if figures["epochs"] == 20 else None


GOALS = [
    Goal("reference, fixed : stored", "≥", 10, epoch_ratio("reference_fixed")),
    Goal(
        "reference, published : stored",
        *("≥", 40, epoch_ratio("reference_published")),
    ),
    Goal(
        "SpeechBrain, cached : stored",
        *("≥", 5, epoch_ratio("speechbrain_cached")),
    ),
    Goal("extraction : bare forward pass", "≤", 1.5, extraction_ratio),
    Goal("seconds an epoch", "≤", 8, epoch_seconds, 1),
    Goal("seconds of a run of 20 epochs", "≤", 240, run_seconds, 1),
    Goal(
        "MB of memory at four times FSC",
        *("≤", 1500, itemgetter("peak_memory_mb"), 4),
    ),
]


def results_tables(figures):
    """The tables of one scale, as Markdown.

    Arguments
    ---------
    figures : dict
        What fsc_scale.py measured.

    Returns
    -------
    str
    """
    sizes = figures["utterances"]
    machine = figures["machine"]
    versions = figures["versions"].items()
    epoch = figures["train_epoch_seconds"]
    batches = figures["measured_batches"]
    lines = [
        f"## Scale {figures['scale']:g}: {sum(sizes.values()):,} utterances",
        "",
        f"{sizes['train']:,} for training, {sizes['valid']:,} for validation, "
        f"{sizes['test']:,} for the test. {machine['cpu']}, "
        f"{machine['cores']} cores, threads: {figures['threads']}; "
        f"{', '.join(' '.join(item) for item in versions)}; "
        f"commit {figures['commit'] or 'unknown'}.",
        "",
        f"    {figures['command']}",
        "",
        "| path | seconds an epoch | ratio to stored |",
        "|---|---:|---:|",
    ]
    for name, text in PATHS.items():
        if name in epoch:
            if name in batches:
                text += f" ({batches[name]} batches timed)"
            ratio = epoch[name] / epoch["stored"]
            lines.append(f"| {text} | {epoch[name]:.2f} | {ratio:.1f} |")
    lines += ["", "| once, or in all | |", "|---|---:|"]
    for name, text in COSTS.items():
        digits = 0 if name.endswith("_mb") else 1
        lines.append(f"| {text} | {figures[name]:,.{digits}f} |")
    lines += ["", "| goal | | measured | |", "|---|---|---:|---|"]
    for text, sign, bound, figure, scale in GOALS:
        value = figure(figures)
        if value is None or scale not in (None, figures["scale"]):
            continue
        met = value >= bound if sign == "≥" else value <= bound
        state = "met" if met else "missed"
        lines.append(f"| {text} | {sign} {bound:g} | {value:.2f} | {state} |")
    return "\n".join(lines)


def write_page(saved, path):
    """Writes the page, and keeps what was written by hand at its end.

    Arguments
    ---------
    saved : list
        Figures of one or several scales.
    path : Path
    """
    by_hand = ""
    if path.is_file():
        _, _, by_hand = path.read_text(encoding="utf-8").partition(MARKER)
    saved = sorted(saved, key=lambda figures: figures["scale"])
    tables = "\n\n".join(results_tables(figures) for figures in saved)
    page = PAGE.format(tables=tables, marker=MARKER)
    write_text(path, page.rstrip("\n") + (by_hand or "\n"))


def plot_scaling(saved, path):
    """Draws time and memory against the number of utterances.

    Arguments
    ---------
    saved : list
        Figures of one or several scales.
    path : Path
        A PNG file.
    """
    from slu_kd_lobes.evaluation.plots import plt, save_figure

    saved = sorted(saved, key=lambda figures: figures["scale"])
    sizes = [figures["utterances"]["train"] for figures in saved]
    epochs = [figures["train_epoch_seconds"]["stored"] for figures in saved]
    panels = {
        "seconds": {
            "extraction": [f["extraction_seconds"] for f in saved],
            "epoch on stored features": epochs,
        },
        "peak memory (MB)": {
            "extraction": [f["extraction_peak_memory_mb"] for f in saved],
            "run": [f["peak_memory_mb"] for f in saved],
        },
    }
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, (title, curves) in zip(axes, panels.items()):
        for label, values in curves.items():
            axis.plot(sizes, values, marker="o", label=label)
            for point in zip(sizes, values):
                axis.annotate(
                    f"{point[1]:,.0f}",
                    point,
                    xytext=(0, 6),
                    textcoords="offset points",
                    ha="center",
                )
        axis.set(xlabel="training utterances", ylabel=title)
        axis.margins(0.15)
        axis.set(xlim=(0, None), ylim=(0, None))
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axis.grid(alpha=0.3)
        axis.legend()
    save_figure(figure, path)
