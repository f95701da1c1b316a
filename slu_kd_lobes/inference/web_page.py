"""A web page that hears commands.

It needs the extra ``demo`` of setup.py.
"""

import time

import numpy as np
import torch

from slu_kd_lobes.data.audio import read_command
from slu_kd_lobes.evaluation.plots import plain, plt

INTRODUCTION = """\
# Spoken commands to slots

Say a command, or choose a recording. The model hears the audio and fills the
slots; it never writes the words down.
"""


def waveform_figure(wav, rate, answer):
    """The waveform, with the place where each slot was decided.

    Arguments
    ---------
    wav : numpy.ndarray
        [samples].
    rate : int
        In Hz.
    answer : dict
        See `SpokenIntentClassifier.classify_batch`.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, axis = plt.subplots(figsize=(8, 2.4), layout="constrained")
    seconds = np.arange(len(wav)) / rate
    axis.plot(seconds, wav, color="0.6", linewidth=0.5)
    slots = answer["slots"]
    for number, (name, slot) in enumerate(slots.items()):
        axis.axvline(  # one below the other: several may share a frame
            slot["seconds"],
            1 - (number + 1) / len(slots),
            1 - number / len(slots),
            linewidth=3,
            color=f"C{number}",
            label=plain(f"{name}: {slot['value']}"),
        )
    axis.set(xlabel="seconds", yticks=[], xlim=(0, len(wav) / rate))
    figure.legend(loc="outside upper right", ncols=3, fontsize="small")
    return figure


def build_page(model, examples=()):
    """The page of a model.

    Arguments
    ---------
    model : SpokenIntentClassifier
    examples : list of str
        Recordings to choose from.

    Returns
    -------
    gradio.Blocks
    """
    import gradio as gr  # an extra, so that the rest needs none of it

    model.classify_batch(torch.zeros(1, model.sample_rate))  # the slow first

    def hear(path):
        if path is None:
            return "", None
        try:
            wav = read_command(path, "the recording", model.sample_rate)
        except ValueError as error:
            raise gr.Error(str(error)) from error
        start = time.perf_counter()
        (answer,) = model.classify_batch(wav)
        milliseconds = 1e3 * (time.perf_counter() - start)
        seconds = len(wav) / model.sample_rate
        verdict = "rejected" if answer["rejected"] else "accepted"
        lines = [
            f"**{verdict}** with a probability of "
            f"{100 * answer['probability']:.1f} %; {milliseconds:.0f} ms for "
            f"{seconds:.1f} s of audio",
            "",
            "| slot | value | probability |",
            "|---|---|---:|",
        ]
        lines += [
            f"| {name} | **{slot['value']}** "
            f"| {100 * slot['probability']:.1f} % |"
            for name, slot in answer["slots"].items()
        ]
        figure = waveform_figure(wav.numpy(), model.sample_rate, answer)
        plt.close(figure)
        return "\n".join(lines), figure

    with gr.Blocks(title="Spoken commands to slots") as page:
        gr.Markdown(INTRODUCTION)
        audio = gr.Audio(
            sources=["upload", "microphone"], type="filepath", label="Command"
        )
        slots = gr.Markdown()
        figure = gr.Plot(label="Where each slot was decided")
        audio.change(hear, audio, [slots, figure])
        if examples:
            gr.Examples([[path] for path in examples], audio)
    return page
