"""Text teachers, and the table of logits that stands in for them.

A teacher reads a transcript and gives logits for all slots. Since a corpus
has few different transcripts (248 in Fluent Speech Commands), its logits are
computed once, into a table; the student never runs BERT.

Source: Cho et al. 2020, section 3.3 (teacher and professor) and 4.2.1.
"""

import json
import os
from pathlib import Path

import torch
from huggingface_hub.constants import HF_HUB_CACHE
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from speechbrain.integrations.huggingface.textencoder import TextEncoder

from slu_kd_lobes.features import sha256
from slu_kd_lobes.hub import readable_source
from slu_kd_lobes.text import normalise_transcript


class ClsPooling(torch.nn.Module):
    """The logits at [CLS]: the paper's *teacher*.

    Example
    -------
    >>> logits = torch.tensor([[[1.0], [5.0]]])
    >>> ClsPooling()(logits, torch.tensor([[1, 1]]))
    tensor([[1.]])
    """

    def forward(self, logits, mask):
        """Returns one vector a sentence.

        Arguments
        ---------
        logits : torch.Tensor
            Logits of every token, [batch, tokens, values].
        mask : torch.Tensor
            1 for real tokens, 0 for padding, [batch, tokens].

        Returns
        -------
        torch.Tensor
            [batch, values].
        """
        return logits[:, 0]


class MaxPooling(torch.nn.Module):
    """The maximum of the logits over all real tokens: the *professor*.

    Example
    -------
    >>> logits = torch.tensor([[[1.0], [5.0], [9.0]]])
    >>> MaxPooling()(logits, torch.tensor([[1, 1, 0]]))
    tensor([[5.]])
    """

    def forward(self, logits, mask):
        """Returns one vector a sentence; see :class:`ClsPooling`."""
        padding = mask.unsqueeze(-1) == 0
        return logits.masked_fill(padding, float("-inf")).amax(dim=1)


class MeanPooling(torch.nn.Module):
    """The mean over all real tokens: a vector of the sentence.

    Example
    -------
    >>> hidden = torch.tensor([[[1.0], [5.0], [9.0]]])
    >>> MeanPooling()(hidden, torch.tensor([[1, 1, 0]]))
    tensor([[3.]])
    """

    def forward(self, logits, mask):
        """Returns one vector a sentence; see :class:`ClsPooling`."""
        mask = mask.unsqueeze(-1)
        return (logits * mask).sum(1) / mask.sum(1)


class TextTeacher(torch.nn.Module):
    """A text encoder with slot logits on top.

    Arguments
    ---------
    source : str
        Folder or hub name of a BERT-like model.
    num_logits : int or None
        Values of all slots together; None for the encoder's own vectors.
    pooling : torch.nn.Module
        How the logits (or vectors) of the tokens become those of the sentence.
    save_path : str or None
        Where a model from the hub is kept; None is the hub's own cache.
    max_length : int
        Tokens of a sentence that are read.

    Raises
    ------
    ValueError
        If the model cannot be had.

    Example
    -------
    >>> from slu_kd_lobes.bundled import packaged_minilm
    >>> teacher = TextTeacher(packaged_minilm(), 24, MaxPooling())
    >>> teacher(["turn on the lights", "louder"]).shape
    torch.Size([2, 24])
    """

    def __init__(
        self, source, num_logits, pooling, save_path=None, max_length=60
    ):
        super().__init__()
        remedy = (
            "check the name and the network, or leave --text_encoder out to "
            "use the packaged MiniLM"
        )
        with readable_source("text encoder", source, remedy):
            encoder = TextEncoder(
                source, save_path or HF_HUB_CACHE, freeze=False
            )
        self.tokenizer = encoder.tokenizer
        self.encoder = encoder.model
        width = self.encoder.config.hidden_size
        self.classifier = (
            torch.nn.Identity()
            if num_logits is None
            else torch.nn.Linear(width, num_logits)
        )
        self.pooling = pooling
        self.max_length = max_length

    def forward(self, transcripts):
        """Returns the logits of each sentence.

        Arguments
        ---------
        transcripts : list of str
            Sentences, [batch].

        Returns
        -------
        torch.Tensor
            [batch, num_logits], or the width of the encoder's vectors.
        """
        tokens = self.tokenizer(
            transcripts,
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=self.max_length,
        ).to(self.encoder.device)
        hidden = self.encoder(**tokens).last_hidden_state
        return self.pooling(self.classifier(hidden), tokens["attention_mask"])


def text_encoder_fingerprint(source):
    """What identifies a text encoder: its files' hash, or its hub name.

    Arguments
    ---------
    source : str
        Folder or hub name.

    Returns
    -------
    str
        Hash of configuration and weights of a folder, else the name.

    Example
    -------
    >>> text_encoder_fingerprint("bert-base-uncased")
    'bert-base-uncased'
    """
    folder = Path(source)
    if not folder.is_dir():
        return source
    files = sorted(
        path
        for path in folder.iterdir()
        if path.suffix in (".json", ".safetensors", ".bin", ".txt")
    )
    return sha256("".join(sha256(f.read_bytes()) for f in files).encode())


class TeacherTable:
    """Logits of a frozen teacher for every transcript of a corpus.

    Arguments
    ---------
    transcripts : list of str
        Normalised transcripts, without repetition.
    logits : torch.Tensor
        Logits of each, [transcripts, values].
    made_from : dict
        What the table was made from; a table that was made from something
        else is refused.
    errors : dict
        Error of the teacher on each split, in percent of its transcripts.

    Example
    -------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/table.safetensors"
    >>> made_from = {"text_encoder": "MiniLM", "schema": "5f"}
    >>> table = TeacherTable(["lights on"], torch.zeros(1, 24), made_from)
    >>> table.save(path)
    >>> TeacherTable.load(path, made_from).rows(["Lights on!"])
    tensor([0])
    >>> TeacherTable.load(path, {**made_from, "schema": "e0"})
    Traceback (most recent call last):
    ...
    ValueError: ...table.safetensors was made from another schema: delete it, \
and the teacher is trained again
    """

    def __init__(self, transcripts, logits, made_from, errors=None):
        self.transcripts = list(transcripts)
        self.logits = logits
        self.made_from = made_from
        self.errors = errors or {}
        self._rows = {text: i for i, text in enumerate(self.transcripts)}

    def rows(self, transcripts):
        """Rows of transcripts in the table.

        Arguments
        ---------
        transcripts : list of str
            Any writing of the transcripts.

        Returns
        -------
        torch.Tensor
            [len(transcripts)].

        Raises
        ------
        ValueError
            If a transcript is not in the table.
        """
        keys = [normalise_transcript(text) for text in transcripts]
        unknown = [key for key in keys if key not in self._rows]
        if unknown:
            raise ValueError(
                f"the teacher's table has no row for the transcript "
                f"'{unknown[0]}' (and {len(unknown) - 1} others): it was made "
                "from other data; delete it, and the teacher is trained again"
            )
        return torch.tensor([self._rows[key] for key in keys], dtype=torch.long)

    def save(self, path):
        """Writes the table, whole or not at all.

        Arguments
        ---------
        path : str or Path
            A ``.safetensors`` file.
        """
        part = Path(f"{path}.{os.getpid()}.part")
        logits = self.logits.contiguous()
        metadata = {
            "transcripts": json.dumps(self.transcripts),
            "made_from": json.dumps(self.made_from),
            "errors": json.dumps(self.errors),
        }
        metadata["sha256"] = _checksum(metadata, logits)
        try:
            save_file({"logits": logits}, part, metadata)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def load(cls, path, made_from=None):
        """Reads a table and checks what it was made from.

        Arguments
        ---------
        path : str or Path
            A ``.safetensors`` file.
        made_from : dict or None
            What it must have been made from; None takes it as it is.

        Returns
        -------
        TeacherTable

        Raises
        ------
        ValueError
            If the file is damaged or was made from something else.
        """
        remedy = "delete it, and the teacher is trained again"
        try:
            with safe_open(path, framework="pt") as f:
                metadata = f.metadata()
                logits = f.get_tensor("logits")
            table = cls(
                json.loads(metadata["transcripts"]),
                logits,
                json.loads(metadata["made_from"]),
                json.loads(metadata["errors"]),
            )
            intact = metadata.pop("sha256") == _checksum(metadata, logits)
        except (SafetensorError, KeyError, TypeError, ValueError):
            intact = False
        if not intact:
            raise ValueError(f"{path} is damaged: {remedy}")
        if made_from is not None:
            keys = made_from.keys() | table.made_from.keys()
            other = sorted(
                key
                for key in keys
                if made_from.get(key) != table.made_from.get(key)
            )
            if other:
                raise ValueError(
                    f"{path} was made from another {', '.join(other)}: {remedy}"
                )
        return table


def _checksum(metadata, logits):
    """Hash of all that a table says."""
    text = json.dumps(metadata, sort_keys=True)
    return sha256(text.encode() + logits.numpy().tobytes())
