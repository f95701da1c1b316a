"""Text models that read a transcript and fill its slots.

Source: Cho et al. 2020, section 3.3 (teacher and professor) and 4.2.1.
"""

import torch
from huggingface_hub.constants import HF_HUB_CACHE
from speechbrain.integrations.huggingface.textencoder import TextEncoder

from slu_kd_lobes.utils.hub import readable_source


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
    max_length : int
        Tokens of a sentence that are read.
    save_path : str or None
        Where a model from the hub is kept; None is the hub's own cache.

    Raises
    ------
    ValueError
        If the model cannot be had, or cannot read so many tokens.

    Example
    -------
    >>> from slu_kd_lobes.utils.environment import packaged_minilm
    >>> teacher = TextTeacher(packaged_minilm(), 24, MaxPooling())
    >>> teacher(["turn on the lights", "louder"]).shape
    torch.Size([2, 24])
    """

    def __init__(
        self, source, num_logits, pooling, max_length=60, save_path=None
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
        limit = min(
            self.tokenizer.model_max_length,
            getattr(self.encoder.config, "max_position_embeddings", max_length),
        )
        if max_length > limit:
            raise ValueError(
                f"max_tokens is {max_length}, and {source} reads at most "
                f"{limit} tokens: lower it"
            )
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
