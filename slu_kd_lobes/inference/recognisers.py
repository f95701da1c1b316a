"""Speech to text to slots: what an end-to-end student is compared with.

A recogniser writes down what it hears; a reader finds the slots in the text.
The reader may be a fine-tuned BERT (:mod:`slu_kd_lobes.teachers.tables`), as in
Cho et al. 2020, section 4.1, or the training transcript that is most alike.
"""

import os
from pathlib import Path

import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from speechbrain import inference
from tqdm import tqdm
from transformers import pipeline

from slu_kd_lobes.data.audio import read_waveform
from slu_kd_lobes.utils.files import read_csv, write_csv
from slu_kd_lobes.utils.fingerprints import (
    file_fingerprint,
    weights_fingerprint,
)
from slu_kd_lobes.utils.hub import load_interface, readable_source


class TransformerRecogniser:
    """Any speech recogniser of transformers: Whisper, wav2vec 2.0 with CTC.

    Arguments
    ---------
    source : str
        Folder or hub name.
    num_beams : int
        Hypotheses that are followed at a time, where the model generates.
    device : str

    Raises
    ------
    ValueError
        If the model cannot be had.
    """

    sample_rate = 16000

    def __init__(self, source, num_beams=1, device="cpu"):
        with readable_source("speech recogniser", source):
            self.pipeline = pipeline(
                "automatic-speech-recognition",
                source,
                device=device,
                dtype=torch.float32,
            )
        model, tokenizer = self.pipeline.model, self.pipeline.tokenizer
        if tokenizer.pad_token is None:  # the pipeline would refuse batches
            tokenizer.pad_token = tokenizer.eos_token
        self.options = {}
        if model.can_generate():
            self.options["generate_kwargs"] = {"num_beams": num_beams}
        self.fingerprint = weights_fingerprint(model, str(self.options))

    def __call__(self, wavs):
        """Writes down what it hears.

        Arguments
        ---------
        wavs : list of torch.Tensor
            Waveforms, [samples], 16 kHz.

        Returns
        -------
        list of str
        """
        audio = [
            {"raw": wav.numpy(), "sampling_rate": self.sample_rate}
            for wav in wavs
        ]
        found = self.pipeline(audio, batch_size=len(audio), **self.options)
        return [item["text"].strip() for item in found]


class SpeechBrainRecogniser:
    """Any pre-trained SpeechBrain ASR, by folder or hub name.

    Arguments
    ---------
    source : str
        Folder or hub name.
    interface : str
        SpeechBrain's class: ``EncoderDecoderASR`` or ``EncoderASR``.
    device : str

    Raises
    ------
    ValueError
        If the model cannot be had, or there is no such interface.
    """

    def __init__(self, source, interface="EncoderDecoderASR", device="cpu"):
        interfaces = {
            "EncoderDecoderASR": inference.ASR.EncoderDecoderASR,
            "EncoderASR": inference.ASR.EncoderASR,
        }
        self.model = load_interface(
            "speech recogniser", source, interface, interfaces, device
        )
        self.sample_rate = getattr(self.model.hparams, "sample_rate", 16000)
        self.fingerprint = weights_fingerprint(self.model)

    def __call__(self, wavs):
        """Writes down what it hears; see :class:`TransformerRecogniser`."""
        padded = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
        sizes = torch.tensor([len(wav) for wav in wavs])
        texts, _ = self.model.transcribe_batch(padded, sizes / padded.shape[1])
        return [str(text).strip() for text in texts]


class TranscriptStore:
    """Transcripts of audio files by one recogniser, made once.

    Arguments
    ---------
    folder : str or Path
        Where the transcripts of all recognisers live.
    recogniser : callable
        Has a `fingerprint` and a `sample_rate`.
    batch_size : int
        Files that are heard together.
    save_every : int
        Batches between two writings of the file.
    """

    def __init__(self, folder, recogniser, batch_size=16, save_every=10):
        self.recogniser = recogniser
        key = recogniser.fingerprint[:16]
        self.path = Path(folder) / f"transcripts-{key}.csv"
        self.batch_size = batch_size
        self.save_every = save_every

    def load(self, wavs):
        """Transcripts of the files, making those that are missing.

        Arguments
        ---------
        wavs : list of str
            Audio files.

        Returns
        -------
        list of str
        """
        texts = {}
        if self.path.is_file():
            texts = {row["audio"]: row["text"] for row in read_csv(self.path)}
        keys = [file_fingerprint(wav) for wav in wavs]
        missing = [i for i, key in enumerate(keys) if key not in texts]
        missing.sort(key=lambda i: os.stat(wavs[i]).st_size)
        steps = range(0, len(missing), self.batch_size)
        for step in tqdm(steps, "recogniser", ncols=79, disable=not missing):
            batch = missing[step : step + self.batch_size]
            rate = self.recogniser.sample_rate
            heard = self.recogniser(
                [read_waveform(wavs[i], rate) for i in batch]
            )
            texts.update(zip((keys[i] for i in batch), heard))
            if step // self.batch_size % self.save_every == 0:
                self._save(texts)
        if missing:
            self._save(texts)
        return [texts[key] for key in keys]

    def _save(self, texts):
        rows = [{"audio": a, "text": text} for a, text in sorted(texts.items())]
        write_csv(self.path, rows)


class NearestTranscript:
    """Slots of the known transcript that shares most letters with a text.

    Letters: tf-idf of one to four within words, cosine. The logit of a value
    is `scale` times the similarity of the nearest transcript that has it; as
    probabilities these are not calibrated.

    Arguments
    ---------
    transcripts : list of str
        Known ones.
    targets : torch.Tensor
        Their values, [transcripts, slots].
    slices : dict
        Columns of each slot.
    scale : float

    Example
    -------
    >>> reader = NearestTranscript(
    ...     ["lights on", "louder music"],
    ...     torch.tensor([[0], [1]]),
    ...     {"object": slice(0, 2)},
    ... )
    >>> reader(["light on", "loud"]).argmax(1)
    tensor([0, 1])
    """

    def __init__(self, transcripts, targets, slices, scale=20.0):
        self.vectorizer = TfidfVectorizer(
            analyzer="char_wb", ngram_range=(1, 4)
        )
        self.known = self.vectorizer.fit_transform(transcripts)
        self.targets = targets
        self.slices = slices
        self.scale = scale

    def __call__(self, texts):
        """Returns the logits.

        Arguments
        ---------
        texts : list of str

        Returns
        -------
        torch.Tensor
            [texts, values].
        """
        alike = self.vectorizer.transform(texts) @ self.known.T
        alike = torch.from_numpy(alike.toarray()).float()
        return self.scale * logits_of_nearest(alike, self.targets, self.slices)


def logits_of_nearest(similarities, targets, slices):
    """What the nearest of known texts says, as logits.

    Arguments
    ---------
    similarities : torch.Tensor
        Of utterances to known texts, not below 0, [utterances, texts].
    targets : torch.Tensor
        Values of these texts, [texts, slots].
    slices : dict
        Columns of each slot.

    Returns
    -------
    torch.Tensor
        For each value the similarity of the nearest text that has it,
        [utterances, values]; 0 where none has.

    Example
    -------
    >>> similarities = torch.tensor([[0.5, 0.9, 0.7]])
    >>> targets = torch.tensor([[0], [1], [0]])
    >>> logits_of_nearest(similarities, targets, {"object": slice(0, 3)})
    tensor([[0.7000, 0.9000, 0.0000]])
    """
    width = sum(columns.stop - columns.start for columns in slices.values())
    logits = torch.zeros(len(similarities), width)
    for columns, values in zip(slices.values(), targets.T):
        places = (columns.start + values).expand(similarities.shape)
        logits.scatter_reduce_(1, places, similarities, "amax")
    return logits
