"""Vectors of a frozen text model for every token, and how much each counts.

Source: Ni et al. 2023, "Adaptive Knowledge Distillation between Text and
Speech Pre-trained Models" (PAD), whose teacher is a BERT.
"""

import itertools
from pathlib import Path

import torch
from filelock import FileLock
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer

from slu_kd_lobes.data.feature_store import StoredFeatures
from slu_kd_lobes.data.text_units import WordPieces
from slu_kd_lobes.data.transcripts import normalise_transcript
from slu_kd_lobes.losses.alignment import Units
from slu_kd_lobes.losses.priors import significance
from slu_kd_lobes.teachers.tables import TeacherTable
from slu_kd_lobes.utils.fingerprints import fingerprint, model_fingerprint
from slu_kd_lobes.utils.hub import readable_source

#: What a BERT reads where it does not know a word.
UNKNOWN_TOKEN = "[UNK]"

logger = get_logger(__name__)


class TokenTable(TeacherTable):
    """What a text model says of each token of each transcript.

    Arguments
    ---------
    transcripts : list of str
        Normalised transcripts, without repetition.
    outputs : torch.Tensor
        All their tokens one after the other: the vector, then the prior,
        [tokens, values + 1].
    made_from : dict
        Fingerprints of what shaped the table.
    lengths : list of int
        Tokens of each transcript.
    errors : dict
        See `TeacherTable`.

    Example
    -------
    >>> outputs = torch.tensor([[1.0, 0.4], [2.0, 0.6], [3.0, 1.0]])
    >>> table = TokenTable(["lights on", "stop"], outputs, {}, [2, 1])
    >>> units = table.units([1, 0])
    >>> units.vectors.squeeze(-1), units.priors
    (tensor([[3., 0.],
            [1., 2.]]), tensor([[1.0000, 0.0000],
            [0.4000, 0.6000]]))
    """

    def __init__(self, transcripts, outputs, made_from, lengths, errors=None):
        super().__init__(transcripts, outputs, made_from, errors)
        ends = torch.tensor(lengths).cumsum(0)
        self.stored = StoredFeatures(
            [outputs],
            shard=torch.zeros_like(ends),
            starts=ends - torch.tensor(lengths),
            lengths=torch.tensor(lengths),
        )

    def facts(self):
        """What the file tells beside the outputs; see `TeacherTable`."""
        return {**super().facts(), "lengths": self.stored.lengths.tolist()}

    def units(self, rows, device="cpu"):
        """Tokens of transcripts, padded.

        Arguments
        ---------
        rows : list of int or torch.Tensor
            Numbers of transcripts; see `rows_of`.
        device : str
            Where the result is wanted.

        Returns
        -------
        Units
            [batch, tokens, values].
        """
        values, lengths = self.stored.batch(rows)
        mask = torch.arange(values.shape[1]) < lengths.unsqueeze(1)
        values = values.to(device)
        return Units(values[..., :-1], mask.to(device), values[..., -1])

    def targets(self, rows, size):
        """What is said after the mark of the begin, of each token.

        Arguments
        ---------
        rows : list of int or torch.Tensor
            Numbers of transcripts; see `rows_of`.
        size : int
            Tokens that are wanted. A transcript that has fewer, as one of
            another utterance may, begins again.

        Returns
        -------
        torch.Tensor
            [batch, size, values].
        """
        values, lengths = self.stored.batch(rows)
        places = 1 + torch.arange(size) % (lengths - 1).unsqueeze(1)
        places = places.unsqueeze(2).expand(-1, -1, values.shape[2] - 1)
        return values[..., :-1].gather(1, places)


class TokenModel:
    """A frozen text model, and the table of its tokens' vectors and priors.

    Arguments
    ---------
    text_encoder : str
        Any BERT-like model, by folder or hub name.
    folder : str or Path
        Where tables live.
    max_length : int
        Tokens of a sentence that are read.
    special_tokens : bool
        Whether the marks of begin and end are tokens, too. They receive most
        of the attention and stand for no sound.
    dtype : str
        Of the numbers on disk, ``float32`` or ``float16``.
    """

    def __init__(
        self,
        text_encoder,
        folder,
        max_length=128,
        special_tokens=False,
        dtype="float32",
    ):
        self.text_encoder = text_encoder
        self.folder = Path(folder)
        self.max_length = max_length
        self.special_tokens = special_tokens
        self.dtype = getattr(torch, dtype)

    def table(self, transcripts, device="cpu"):
        """Loads the table of transcripts; makes it first if need be.

        Arguments
        ---------
        transcripts : iterable of str
        device : str
            Where the text model runs.

        Returns
        -------
        TokenTable

        Raises
        ------
        ValueError
            If the model cannot be had, or a transcript has no token.
        """
        texts = sorted({normalise_transcript(text) for text in transcripts})
        made_from = {
            "settings": fingerprint(
                [self.max_length, self.special_tokens, str(self.dtype)]
            ),
            "text_encoder": model_fingerprint(self.text_encoder),
            "transcripts": fingerprint(texts),
        }
        path = self.folder / f"tokens-{fingerprint(made_from)[:12]}.safetensors"
        run_on_main(self._make, [texts, made_from, path, device])
        return TokenTable.load(path, made_from)

    def words(self, transcript):
        """The tokens of a transcript as text, as many as its `units`.

        Arguments
        ---------
        transcript : str

        Returns
        -------
        list of str
        """
        tokenizer = AutoTokenizer.from_pretrained(self.text_encoder)
        numbers = tokenizer(
            normalise_transcript(transcript),
            truncation=True,
            max_length=self.max_length,
            return_special_tokens_mask=True,
        )
        return [
            tokenizer.convert_ids_to_tokens(number)
            for number, special in zip(
                numbers["input_ids"], numbers["special_tokens_mask"]
            )
            if self.special_tokens or not special
        ]

    def check_same_tokens(self, texts, sentences, table):
        """Refuses a teacher whose tokens are not those that are written.

        They are compared one by one: two of a kind may be as many, and each
        stand for another part of the sentence.

        Arguments
        ---------
        texts : list of str
            Transcripts.
        sentences : list of list of str
            What each of them is written as.
        table : TokenTable
            Of this model, with `special_tokens`.

        Raises
        ------
        ValueError
            If a sentence has other tokens here, or more than are read.
        """
        lengths = table.stored.lengths[table.rows_of(texts)].tolist()
        others = WordPieces(self.text_encoder).cut(texts)
        for text, own, theirs, length in zip(texts, sentences, others, lengths):
            if length != len(theirs) + 2:  # the marks of begin and end
                raise ValueError(
                    f"the transcript '{text}' has {len(theirs) + 2} tokens with "
                    f"its marks, and {self.max_length} are read: raise "
                    "max_tokens, or lower longest"
                )
            pairs = itertools.zip_longest(own, theirs, fillvalue="nothing")
            for mine, other in pairs:
                if mine != other and other != UNKNOWN_TOKEN:
                    raise ValueError(
                        f"the transcript '{text}' is written with '{mine}' "
                        f"where the text model reads '{other}': write its "
                        "pieces (--written=pieces), or take the row out"
                    )

    def _make(self, texts, made_from, path, device):
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not path.is_file():
                outputs, lengths = self.read(texts, device)
                TokenTable(texts, outputs, made_from, lengths).save(path)
                logger.info(f"Tokens of {len(texts)} transcripts: {path}")

    @torch.no_grad()
    def read(self, texts, device="cpu", batch_size=64):
        """What the model says of each token.

        Arguments
        ---------
        texts : list of str
        device : str
        batch_size : int

        Returns
        -------
        outputs : torch.Tensor
            Vectors, then the prior, [tokens, values + 1].
        lengths : list of int
            Tokens of each text.

        Raises
        ------
        ValueError
            If the model cannot be had, or a text has no token.
        """
        with readable_source("text encoder", self.text_encoder):
            tokenizer = AutoTokenizer.from_pretrained(self.text_encoder)
            # Faster ways to compute attention keep no weights.
            model = AutoModel.from_pretrained(
                self.text_encoder, attn_implementation="eager"
            )
        model = model.float().eval().to(device)
        outputs, lengths = {}, {}
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        steps = range(0, len(order), batch_size)
        for step in tqdm(steps, "text encoder", unit="batch", mininterval=1):
            rows = order[step : step + batch_size]
            tokens = tokenizer(
                [texts[i] for i in rows],
                return_tensors="pt",
                padding=True,
                truncation=True,
                max_length=self.max_length,
                return_special_tokens_mask=True,
            ).to(device)
            special = tokens.pop("special_tokens_mask").bool()
            mask = tokens["attention_mask"].bool()
            found = model(**tokens, output_attentions=True)
            if not self.special_tokens:
                mask = mask & ~special
            priors = significance(found.attentions, mask)
            both = [found.last_hidden_state, priors.unsqueeze(-1)]
            both = torch.cat(both, -1).to(self.dtype).cpu()
            for i, values, inside in zip(rows, both, mask.cpu()):
                outputs[i], lengths[i] = values[inside], int(inside.sum())
                if lengths[i] == 0:
                    raise ValueError(
                        f"the transcript '{texts[i]}' has no token: take its "
                        "row out of the corpus"
                    )
        places = range(len(texts))
        return torch.cat([outputs[i] for i in places]), [
            lengths[i] for i in places
        ]
