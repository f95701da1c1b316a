"""A trained student, ready to use: audio in, slots out.

`SpokenIntentClassifier` loads what :mod:`slu_kd_lobes.inference.package`
wrote.
"""

import os
from pathlib import Path

import torch
from speechbrain.inference.interfaces import Pretrained

from slu_kd_lobes.data.audio import as_waveforms, read_waveform, resample
from slu_kd_lobes.evaluation.metrics import slot_predictions
from slu_kd_lobes.utils.blocks import RefusedModel, load_pretrained_blocks
from slu_kd_lobes.utils.devices import check_device
from slu_kd_lobes.utils.fingerprints import fingerprint, weights_fingerprint
from slu_kd_lobes.utils.hub import model_folder, readable_source

#: Counts up when packages of before cannot be loaded any more.
PACKAGE_FORMAT = 3


def package_hash(schema, threshold, sample_rate, modules):
    """SHA-256 of all that shapes an answer.

    Arguments
    ---------
    schema : SlotSchema
    threshold : float
    sample_rate : int
    modules : dict
        The encoder and the student.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    weights = {name: weights_fingerprint(m) for name, m in modules.items()}
    return fingerprint([schema.fingerprint, threshold, sample_rate, weights])


SEAL = "file_sha256: "


def sealed(text):
    """A text with the hash of all its lines as the last one.

    Arguments
    ---------
    text : str

    Returns
    -------
    str

    Example
    -------
    >>> sealed("threshold: 0.5\\n").splitlines()[1][:19]
    'file_sha256: 16cad4'
    """
    return f"{text}{SEAL}{fingerprint(text.encode())}\n"


def package_text(folder):
    """The ``hyperparams.yaml`` of a package, if it is as it was packaged.

    Arguments
    ---------
    folder : str or Path

    Returns
    -------
    str

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    RefusedModel
        If another version of this project made it, or it was changed.
    """
    path = Path(folder) / "hyperparams.yaml"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no packaged model (it has no hyperparams.yaml): "
            "give a folder that 'slu-kd package' made"
        )
    text = path.read_text("utf-8")
    if f"package_format: {PACKAGE_FORMAT}" not in text.splitlines():
        raise RefusedModel(
            f"{folder} was packaged by another version of slu_kd_lobes: "
            "package its run again with this one"
        )
    if sealed(text.rpartition(SEAL)[0]) != text:
        raise RefusedModel(
            f"{path} was changed after it was packaged: fetch or package the "
            "model again"
        )
    return text


class SpokenIntentClassifier(Pretrained):
    """Fills the slots of spoken commands.

    Arguments
    ---------
    modules : dict
        ``encoder`` and ``student``.
    hparams : dict
        With ``schema``, ``threshold``, ``sample_rate`` and ``sha256`` (see
        `package_hash`).
    **kwargs
        As for `speechbrain.inference.interfaces.Pretrained`.

    Raises
    ------
    RefusedModel
        If the weights, the slots or the threshold are not those that were
        packaged.
    """

    HPARAMS_NEEDED = ["schema", "threshold", "sample_rate", "sha256"]
    MODULES_NEEDED = ["encoder", "student"]

    def __init__(self, modules=None, hparams=None, **kwargs):
        super().__init__(modules, hparams, **kwargs)
        self.schema = self.hparams.schema
        self.slot_names = self.schema.names
        self.threshold = self.hparams.threshold
        self.sample_rate = self.hparams.sample_rate
        found = package_hash(
            self.schema, self.threshold, self.sample_rate, modules
        )
        if found != self.hparams.sha256:
            raise RefusedModel(
                "the weights, the slots or the threshold of this model are not "
                "those that were packaged: fetch or package it again"
            )

    @classmethod
    def from_hparams(cls, source, savedir=None, overrides=None, **kwargs):
        """Loads a packaged model; nothing else in its folder is run.

        Arguments
        ---------
        source : str or Path
            Folder or hub name.
        savedir : str, Path or None
            Where models of the hub are kept; None is the hub's cache.
        overrides : dict or None
            Other values for keys of its ``hyperparams.yaml``.
        **kwargs
            For the class, such as ``run_opts={"device": "cuda"}``.

        Returns
        -------
        SpokenIntentClassifier

        Raises
        ------
        ValueError
            If there is no such model, another version of this project made
            it, it was changed, or it would run code.
        """
        options = kwargs.get("run_opts") or {}
        check_device(options["device"] if "device" in options else "cpu")
        folder = model_folder(os.path.expanduser(source), savedir)
        text = package_text(folder)
        overrides = {"package_folder": folder, **(overrides or {})}
        with readable_source("model", folder, "fetch or package it again"):
            return load_pretrained_blocks(
                cls, folder, text, overrides, **kwargs
            )

    @torch.inference_mode()
    def classify_batch(self, wavs, wav_lens=None, sample_rate=None):
        """Fills the slots of a batch.

        Arguments
        ---------
        wavs : torch.Tensor, numpy.ndarray or list
            Waveforms, [samples] or [batch, samples], of any usual type; see
            `slu_kd_lobes.data.audio.as_waveforms`.
        wav_lens : torch.Tensor, numpy.ndarray, list or None
            Relative lengths, [batch], above 0 and at most 1.
        sample_rate : int or None
            Of `wavs`, in Hz; None is that of the model.

        Returns
        -------
        list of dict
            ``slots``, {name: {"value", "probability", "seconds"}}, where
            seconds is the place in the audio that decided; ``probability``,
            the product over the slots; and ``rejected``, whether that is below
            the threshold.

        Raises
        ------
        ValueError
            If an item of the batch is no audio, or has no length.
        """
        wavs = as_waveforms(wavs)
        wav_lens = _checked_lengths(wav_lens, *wavs.shape)
        if sample_rate is not None:
            wavs = resample(wavs, sample_rate, self.sample_rate)
        wavs = wavs.to(self.device)
        features, lengths = self.mods.encoder(wavs, wav_lens.to(self.device))
        frames = self.mods.student.frame_logits(features, lengths)
        logits, deciding = frames.max(dim=1)
        values, probabilities = slot_predictions(
            logits.cpu().numpy(), self.schema.slices
        )
        samples = wav_lens.to(lengths.device) * wavs.shape[1]
        step = (samples / self.sample_rate / lengths).tolist()
        answers = []
        for item, indices in enumerate(values.tolist()):
            slots = {}
            names = self.schema.decode(indices)
            for slot, (name, columns) in enumerate(self.schema.slices.items()):
                frame = deciding[item, columns.start + indices[slot]].item()
                slots[name] = {
                    "value": names[name],
                    "probability": round(float(probabilities[item, slot]), 6),
                    "seconds": round((frame + 0.5) * step[item], 3),
                }
            whole = float(probabilities[item].prod())
            answers.append(
                {
                    "slots": slots,
                    "probability": round(whole, 6),
                    "rejected": whole < self.threshold,
                }
            )
        return answers

    def classify_file(self, path):
        """Fills the slots of an audio file.

        Arguments
        ---------
        path : str or Path
            Any file that libsndfile reads, at any rate, with any channels.

        Returns
        -------
        dict
            See `classify_batch`.

        Raises
        ------
        ValueError
            If the file cannot be used; see `slu_kd_lobes.data.audio`.
        """
        return self.classify_batch(read_waveform(path, self.sample_rate))[0]

    def forward(self, wavs, wav_lens=None, sample_rate=None):
        """As `classify_batch`."""
        return self.classify_batch(wavs, wav_lens, sample_rate)


def _checked_lengths(wav_lens, items, samples):
    """Relative lengths as a tensor; None is the whole of each item."""
    if wav_lens is None:
        return torch.ones(items)
    lengths = torch.as_tensor(wav_lens, dtype=torch.float32)
    if lengths.shape != (items,):
        raise ValueError(
            f"wav_lens has the shape {list(lengths.shape)}: give one number "
            f"for each of the {items} items of the batch"
        )
    for item, length in enumerate(lengths.tolist()):
        if not 0.5 / samples < length <= 1:
            raise ValueError(
                f"wav_lens of item {item} of the batch is {length:g}: give its "
                "share of the longest item, above 0 and at most 1"
            )
    return lengths
