"""A trained student, ready to use: audio in, slots out.

`SpokenIntentClassifier` loads what :mod:`slu_kd_lobes.inference.package`
wrote.
"""

from pathlib import Path

import torch
from speechbrain.inference.interfaces import Pretrained

from slu_kd_lobes.data.audio import read_waveform
from slu_kd_lobes.evaluation.metrics import slot_predictions
from slu_kd_lobes.utils.fingerprints import fingerprint, weights_fingerprint

#: Counts up when packages of before cannot be loaded any more.
PACKAGE_FORMAT = 2


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


def check_format(folder):
    """Refuses a package of another version of this project.

    Arguments
    ---------
    folder : Path

    Raises
    ------
    ValueError
        If its format is another.
    """
    path = folder / "hyperparams.yaml"
    line = f"package_format: {PACKAGE_FORMAT}"
    if path.is_file() and line not in path.read_text("utf-8").splitlines():
        raise ValueError(
            f"{folder} was packaged by another version of slu_kd_lobes: "
            "package its run again with this one"
        )


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
    ValueError
        If the weights, the slots or the threshold are not those that were
        packaged.
    """

    HPARAMS_NEEDED = ["schema", "threshold", "sample_rate", "sha256"]
    MODULES_NEEDED = ["encoder", "student"]

    def __init__(self, modules=None, hparams=None, **kwargs):
        super().__init__(modules, hparams, **kwargs)
        self.schema = self.hparams.schema
        self.threshold = self.hparams.threshold
        self.sample_rate = self.hparams.sample_rate
        found = package_hash(
            self.schema, self.threshold, self.sample_rate, modules
        )
        if found != self.hparams.sha256:
            raise ValueError(
                "the weights, the slots or the threshold of this model are not "
                "those that were packaged: fetch or package it again"
            )

    @classmethod
    def from_hparams(cls, source, *args, **kwargs):
        """Loads a packaged model; see SpeechBrain's.

        Arguments
        ---------
        source : str or Path
            Folder or hub name.
        *args, **kwargs
            As for `Pretrained.from_hparams`.

        Returns
        -------
        SpokenIntentClassifier

        Raises
        ------
        ValueError
            If another version of this project made it.
        """
        if Path(source).is_dir():
            check_format(Path(source))
            overrides = {"package_folder": str(source)}
            overrides.update(kwargs.pop("overrides", {}))
            kwargs["overrides"] = overrides
        return super().from_hparams(str(source), *args, **kwargs)

    @torch.inference_mode()
    def classify_batch(self, wavs, wav_lens=None):
        """Fills the slots of a batch.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms, [batch, samples], at `sample_rate`.
        wav_lens : torch.Tensor or None
            Relative lengths, [batch].

        Returns
        -------
        list of dict
            ``slots``, {name: {"value", "probability", "seconds"}}, where
            seconds is the place in the audio that decided; ``probability``,
            the product over the slots; and ``rejected``, whether that is below
            the threshold.
        """
        wavs = wavs.to(self.device).float()
        if wav_lens is None:
            wav_lens = torch.ones(len(wavs))
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
            If the file cannot be read or is empty.
        """
        wav = read_waveform(path, self.sample_rate)
        return self.classify_batch(wav.unsqueeze(0))[0]

    def forward(self, wavs, wav_lens=None):
        """As `classify_batch`."""
        return self.classify_batch(wavs, wav_lens)
