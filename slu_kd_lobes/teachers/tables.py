"""Tables of what a frozen text model says of every transcript.

A corpus has few different transcripts (248 in Fluent Speech Commands), so a
text model reads each of them once, into a table; the student never runs BERT.

Source: Cho et al. 2020, section 3.3 (teacher and professor) and 4.2.1.
"""

import json
from pathlib import Path

import numpy as np
import speechbrain as sb
import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger

from slu_kd_lobes.data.transcripts import normalise_transcript
from slu_kd_lobes.evaluation.metrics import intent_errors
from slu_kd_lobes.teachers.fine_tuning import fine_tune
from slu_kd_lobes.teachers.text_teacher import TextTeacher
from slu_kd_lobes.utils.files import whole
from slu_kd_lobes.utils.fingerprints import (
    check_made_from,
    fingerprint,
    model_fingerprint,
)

logger = get_logger(__name__)

REMEDY = "delete it, and it is made again"


class TeacherTable:
    """What a text model says of each transcript: logits, or a vector.

    Arguments
    ---------
    transcripts : list of str
        Normalised transcripts, without repetition.
    outputs : torch.Tensor
        What is said of each, [transcripts, values].
    made_from : dict
        Fingerprints of what shaped the table.
    errors : dict
        Error of the model on each split, in percent of its transcripts.

    Example
    -------
    >>> path = getfixture("tmp_path") / "table.safetensors"
    >>> made_from = {"text_encoder": "MiniLM", "schema": "5f"}
    >>> table = TeacherTable(["lights on"], torch.zeros(1, 2), made_from)
    >>> table.save(path)
    >>> TeacherTable.load(path, made_from).look_up(["Lights on!"])
    tensor([[0., 0.]])
    >>> TeacherTable.load(path, {**made_from, "schema": "e0"})
    Traceback (most recent call last):
    ...
    ValueError: ...table.safetensors was made from another schema: delete it, \
and it is made again
    """

    def __init__(self, transcripts, outputs, made_from, errors=None):
        self.transcripts = list(transcripts)
        self.outputs = outputs
        self.made_from = made_from
        self.errors = errors or {}
        self._rows = {text: i for i, text in enumerate(self.transcripts)}

    def rows_of(self, texts):
        """Numbers of transcripts in the table.

        Arguments
        ---------
        texts : list of str
            Any writing of the transcripts.

        Returns
        -------
        list of int

        Raises
        ------
        ValueError
            If a transcript is not in the table.
        """
        keys = [normalise_transcript(text) for text in texts]
        unknown = [key for key in keys if key not in self._rows]
        if unknown:
            raise ValueError(
                f"the table of the text model has no row for the transcript "
                f"'{unknown[0]}' (and {len(unknown) - 1} others): it was made "
                f"from other data; {REMEDY}"
            )
        return [self._rows[key] for key in keys]

    def look_up(self, texts):
        """What is said of transcripts, [len(texts), values]; see `rows_of`."""
        rows = torch.tensor(self.rows_of(texts), dtype=torch.long)
        return self.outputs[rows]

    def distinct(self, texts):
        """What is said of the different transcripts among some.

        Arguments
        ---------
        texts : list of str

        Returns
        -------
        outputs : torch.Tensor
            [different, values], in the order of the normalised transcripts.
        first : torch.Tensor
            Where each stands first in `texts`, [different].
        which : torch.Tensor
            Row of `outputs` for each of `texts`, [len(texts)].
        """
        keys = [normalise_transcript(text) for text in texts]
        names, first, which = np.unique(
            keys, return_index=True, return_inverse=True
        )
        places = torch.from_numpy(first), torch.from_numpy(which)
        return self.look_up(names.tolist()), *places

    def facts(self):
        """What the file tells beside the outputs, by argument."""
        return {
            "transcripts": self.transcripts,
            "made_from": self.made_from,
            "errors": self.errors,
        }

    def save(self, path):
        """Writes the table, whole or not at all.

        Arguments
        ---------
        path : str or Path
            A ``.safetensors`` file.
        """
        outputs = self.outputs.contiguous()
        metadata = {key: json.dumps(x) for key, x in self.facts().items()}
        metadata["sha256"] = _checksum(metadata, outputs)
        with whole(path) as part:
            save_file({"outputs": outputs}, part, metadata)

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
        try:
            with safe_open(path, framework="pt") as f:
                metadata = f.metadata() or {}
                outputs = f.get_tensor("outputs")
            intact = metadata.pop("sha256") == _checksum(metadata, outputs)
            facts = {key: json.loads(x) for key, x in metadata.items()}
            table = cls(outputs=outputs, **facts)
        except (SafetensorError, KeyError, TypeError, ValueError):
            intact = False
        if not intact:
            raise ValueError(f"{path} is damaged: {REMEDY}")
        if made_from is not None:
            check_made_from(path, table.made_from, made_from, REMEDY)
        return table


def _checksum(metadata, outputs):
    """Hash of all that a table says."""
    text = json.dumps(metadata, sort_keys=True)
    return fingerprint(text.encode() + outputs.numpy().tobytes())


class TextModel:
    """A text model by name, and the table of what it says.

    Arguments
    ---------
    name : str
    text_encoder : str
        Any BERT-like model, by folder or hub name.
    pooling : torch.nn.Module
        How the outputs of the tokens become that of the sentence; see
        :mod:`slu_kd_lobes.teachers.text_teacher`.
    folder : str or Path
        Where tables live.
    max_length : int
        Tokens of a sentence that are read.
    fine_tuning : dict or None
        None for the vectors of the text encoder as it is. Otherwise
        ``number_of_epochs``, ``batch_size``, ``lr``, ``lr_decay`` (a factor an
        epoch), ``opt_class``, ``loss``, ``seed``; ``max_train_error``: a model
        that is wrong on more of its transcripts, in percent, is refused;
        ``text``: ``whole``, the transcripts of the whole training set, or
        ``subset``, those of the part that is drawn.
    """

    def __init__(
        self,
        name,
        text_encoder,
        pooling,
        folder,
        max_length=60,
        fine_tuning=None,
    ):
        self.name = name
        self.text_encoder = text_encoder
        self.pooling = pooling
        self.folder = Path(folder)
        self.max_length = max_length
        self.fine_tuning = fine_tuning
        if fine_tuning and fine_tuning["text"] not in ("whole", "subset"):
            raise ValueError(
                f"text of the fine-tuning is '{fine_tuning['text']}': choose "
                "whole or subset"
            )

    def table(self, manifests, run_opts):
        """Loads the table for a corpus; makes it first if need be.

        Arguments
        ---------
        manifests : slu_kd_lobes.data.manifests.Manifests
        run_opts : dict
            Options of SpeechBrain's Brain, such as the device.

        Returns
        -------
        TeacherTable

        Raises
        ------
        ValueError
            If the model cannot be had, or is not good enough to teach.
        """
        manifests.check_transcripts(self.name, "train")
        splits = self.transcripts(manifests)
        made_from = self.made_from(manifests.schema, splits)
        path = self._place(made_from) / "table.safetensors"
        facts = manifests.schema, splits, made_from, run_opts
        run_on_main(self._make, [path, lambda: self._read(*facts)])
        return TeacherTable.load(path, made_from)

    def vectors(self, transcripts, device="cpu"):
        """Loads the table of the text encoder's own vectors, or makes it.

        Arguments
        ---------
        transcripts : iterable of str
            Of any corpus.
        device : str
            Where the text encoder runs.

        Returns
        -------
        TeacherTable

        Raises
        ------
        ValueError
            If the text encoder cannot be had.
        """
        texts = sorted({normalise_transcript(text) for text in transcripts})
        made_from = {
            "settings": fingerprint([repr(self.pooling), self.max_length]),
            "text_encoder": model_fingerprint(self.text_encoder),
            "transcripts": fingerprint(texts),
        }
        path = self._place(made_from) / "table.safetensors"

        def make():
            """Vectors of the texts, and what they are made from."""
            outputs = read(self._encoder().to(device), texts)
            return TeacherTable(texts, outputs, made_from)

        run_on_main(self._make, [path, make])
        return TeacherTable.load(path, made_from)

    def _encoder(self):
        """The text encoder as it is, without slots."""
        return TextTeacher(
            self.text_encoder, None, self.pooling, self.max_length
        )

    def _place(self, made_from):
        """The folder of what is made from this."""
        return self.folder / f"{self.name}-{fingerprint(made_from)[:12]}"

    def transcripts(self, manifests):
        """Targets by transcript, of each split; ``train`` is what it reads."""
        subset = self.fine_tuning and self.fine_tuning["text"] == "subset"
        return {
            "train": manifests.transcripts("train" if subset else "text"),
            "valid": manifests.transcripts("valid"),
            **{name: manifests.transcripts(name) for name in manifests.tests},
        }

    def made_from(self, schema, splits):
        """Fingerprints of all that shapes a table; see `transcripts`."""
        settings = [repr(self.pooling), self.max_length]
        if self.fine_tuning:
            settings.append({k: repr(v) for k, v in self.fine_tuning.items()})
        # Other test sets with the same transcripts need no other table.
        read = [list(splits["train"].items()), _all_transcripts(splits)]
        return {
            "settings": fingerprint(settings),
            "text_encoder": model_fingerprint(self.text_encoder),
            "schema": schema.fingerprint,
            "transcripts": fingerprint(read),
        }

    def fine_tuned(self, schema, splits, run_opts):
        """Fine-tunes the text encoder; after a stop it goes on.

        Arguments
        ---------
        schema : SlotSchema
        splits : dict
            See `transcripts`; ``train`` is learnt.
        run_opts : dict

        Returns
        -------
        TextTeacher
        """
        sb.utils.seed.seed_everything(self.fine_tuning["seed"])
        teacher = TextTeacher(
            self.text_encoder,
            schema.num_logits,
            self.pooling,
            max_length=self.max_length,
        )
        made_from = self.made_from(schema, splits)
        place = self._place(made_from)
        fine_tune(
            teacher,
            splits["train"],
            {**self.fine_tuning, "slices": schema.slices},
            made_from,
            place.with_name(f"{place.name}.training"),
            run_opts,
        )
        return teacher

    def _make(self, path, make):
        """Leaves a table at the path; one process does it for all."""
        if path.is_file():
            logger.info(f"What the {self.name} says stands in {path}")
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path.parent}.lock"):
            if not path.is_file():
                table = make()
                table.save(path)
                logger.info(f"{len(table.transcripts)} transcripts: {path}")

    def _read(self, schema, splits, made_from, run_opts):
        """A table of what the model says, after fine-tuning if need be."""
        if self.fine_tuning:
            logger.info(
                f"There is no {self.name} for this data and these settings "
                f"yet: training it now on {len(splits['train'])} transcripts"
            )
            model = self.fine_tuned(schema, splits, run_opts)
        else:
            model = self._encoder()
        transcripts = _all_transcripts(splits)
        table = TeacherTable(transcripts, read(model, transcripts), made_from)
        if self.fine_tuning:
            self._check(table, splits, schema)
        return table

    def _check(self, table, splits, schema):
        """Notes the errors; refuses a model that would teach mistakes."""
        for split, targets in splits.items():
            if not targets:
                continue  # a split without transcripts
            wrong = intent_errors(
                table.look_up(targets),
                torch.tensor(list(targets.values())),
                schema.slices,
            )
            table.errors[split] = round(100 * float(wrong.mean()), 4)
        shown = ", ".join(f"{k} {v:.2f} %" for k, v in table.errors.items())
        logger.info(f"Error of the {self.name} on transcripts: {shown}")
        bound = self.fine_tuning["max_train_error"]
        if not table.errors["train"] <= bound:
            raise ValueError(
                f"the {self.name} is wrong on {table.errors['train']:.2f} % of "
                f"its training transcripts, more than max_train_error "
                f"({bound} %): train it longer (number_of_epochs), choose "
                "another lr or text_encoder, or raise the bound"
            )
        if not table.outputs.isfinite().all():
            raise ValueError(
                f"the {self.name} gives logits that are not finite: lower its "
                "lr"
            )


def _all_transcripts(splits):
    return sorted(set().union(*splits.values()))


@torch.no_grad()
def read(model, transcripts, batch_size=256):
    """What a text model says of transcripts, in eval mode.

    Arguments
    ---------
    model : TextTeacher
    transcripts : list of str
    batch_size : int

    Returns
    -------
    torch.Tensor
        [transcripts, values].
    """
    model.eval()
    batches = [
        model(transcripts[i : i + batch_size]).float().cpu()
        for i in range(0, len(transcripts), batch_size)
    ]
    return torch.cat(batches)
