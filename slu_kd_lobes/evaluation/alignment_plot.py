"""A picture of an alignment: which frames a token of the text is like."""

import numpy as np
import torch.nn.functional as F
from matplotlib import pyplot as plt

from slu_kd_lobes.evaluation.plots import COLOURS, FONT, WIDTH, plain
from slu_kd_lobes.losses.alignment import pool_spans
from slu_kd_lobes.utils.files import whole


def best_spans(frames, tokens, spans):
    """The frames that stand for each token of an utterance.

    Arguments
    ---------
    frames, tokens : slu_kd_lobes.losses.alignment.Units
        Of one utterance.
    spans : slu_kd_lobes.losses.alignment.SpanAlignment
        How they are found.

    Returns
    -------
    anchors : list of int
        Frames that spans stand around.
    found : list of tuple of int
        First frame of each token's most similar span, and the one after its
        last.

    Example
    -------
    >>> import torch
    >>> from slu_kd_lobes.losses.alignment import SpanAlignment, Units
    >>> mask, priors = torch.tensor([[True, True]]), torch.tensor([[0.4, 0.6]])
    >>> axes = Units(torch.eye(2).unsqueeze(0), mask, priors)
    >>> best_spans(axes, axes, SpanAlignment(spans=[1]))
    ([1, 0], [(0, 1), (1, 2)])
    """
    anchors, _ = spans.find_anchors(frames, tokens)
    starts, ends = (
        part.flatten(1)
        for part in spans.find_spans(
            anchors, frames.mask.sum(-1), tokens.mask.sum(-1)
        )
    )
    pooled = F.normalize(pool_spans(frames.vectors, starts, ends), dim=-1)
    text = F.normalize(tokens.vectors, dim=-1)
    best = (pooled @ text.transpose(1, 2))[0].argmax(0)
    pairs = zip(starts[0, best].tolist(), ends[0, best].tolist())
    return anchors[0].tolist(), list(pairs)


def plot_alignment(path, wav, sample_rate, words, tokens, sides, spans):
    """Draws an utterance, and for each side priors, anchors, cosines, spans.

    Arguments
    ---------
    path : str or Path
        A PNG file, written whole or not at all.
    wav : torch.Tensor
        [samples].
    sample_rate : int
        In Hz.
    words : list of str
        The tokens, as text.
    tokens : slu_kd_lobes.losses.alignment.Units
        Of the text model, [1, tokens, values].
    sides : dict
        `Units` of the frames, [1, frames, values], by title, such as those
        before and after an alignment.
    spans : slu_kd_lobes.losses.alignment.SpanAlignment
        How spans are found.
    """
    seconds = len(wav) / sample_rate
    heights = [0.8] + [0.6, 0.28 * len(words) + 0.4] * len(sides)
    figure, axes = plt.subplots(
        len(heights),
        figsize=(WIDTH, sum(heights) + 1.2),
        gridspec_kw={"height_ratios": heights},
        sharex=True,
        layout="constrained",
    )
    axes[0].plot(np.linspace(0, seconds, len(wav)), wav, color="0.4", lw=0.4)
    axes[0].set_title("waveform", fontsize=FONT, loc="left")
    axes[0].set_yticks([])
    for number, (title, frames) in enumerate(sides.items()):
        above, below = axes[1 + 2 * number : 3 + 2 * number]
        size = int(frames.mask.sum())
        step, priors = seconds / size, frames.priors[0, :size]
        anchors, found = best_spans(frames, tokens, spans)
        centres = (np.arange(size) + 0.5) * step
        above.plot(centres, priors, color=COLOURS[1], lw=1)
        above.plot(
            centres[anchors], priors[anchors], "o", color=COLOURS[2], ms=3
        )
        above.set_title(
            f"{title}: how much a frame counts, and anchors",
            fontsize=FONT,
            loc="left",
        )
        above.set_yticks([])
        cosines = F.cosine_similarity(
            tokens.vectors[0].unsqueeze(1), frames.vectors[0, :size], dim=-1
        )
        shown = below.imshow(
            cosines,
            aspect="auto",
            cmap="Greys",
            extent=(0, seconds, len(words) - 0.5, -0.5),
            interpolation="nearest",
        )
        for row, (start, end) in enumerate(found):
            below.add_patch(
                plt.Rectangle(
                    (start * step, row - 0.45),
                    (end - start) * step,
                    0.9,
                    fill=False,
                    edgecolor=COLOURS[2],
                    lw=1.2,
                )
            )
        below.set_yticks(range(len(words)), [plain(word) for word in words])
        below.set_title(
            f"{title}: cosine of tokens and frames, and the most similar spans",
            fontsize=FONT,
            loc="left",
        )
        bar = figure.colorbar(shown, ax=below, pad=0.01, aspect=12)
        bar.ax.tick_params(labelsize=FONT)
    for axis in axes:
        axis.tick_params(labelsize=FONT)
    axes[-1].set_xlabel("seconds", fontsize=FONT)
    with whole(path) as part:
        figure.savefig(part, dpi=120, format="png")
    plt.close(figure)
