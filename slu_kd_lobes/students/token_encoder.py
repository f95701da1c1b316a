"""A BERT over audio tokens: what is heard around a token tells what it is.

Source: Baevski et al. 2020, "vq-wav2vec: Self-Supervised Learning of Discrete
Speech Representations", section 4 (BERT on quantised speech); Kim et al. 2020,
"Two-stage Textual Knowledge Distillation for End-to-End Spoken Language
Understanding", section 2, whose speech encoder it is.
"""

import shutil
from pathlib import Path

import torch
from transformers import RobertaConfig, RobertaForMaskedLM

from slu_kd_lobes.data.token_dictionary import BOS, EOS, PAD, TokenDictionary
from slu_kd_lobes.students.dropout import Dropout
from slu_kd_lobes.utils.files import whole
from slu_kd_lobes.utils.hub import readable_source

DICTIONARY = "dictionary.json"


class TokenEncoder(torch.nn.Module):
    """RoBERTa over audio tokens, with the head that says what was masked.

    Arguments
    ---------
    dictionary : slu_kd_lobes.data.token_dictionary.TokenDictionary
        What the tokens stand for.
    frame_ms : float
        Time from one token to the next, in ms.
    hidden_size : int
        Values of a state.
    num_layers : int
    num_heads : int
        Attention heads of a layer.
    feed_forward : int
        Units between the two products of a layer.
    dropout : float
        Of states.
    max_length : int
        Tokens of the longest input, the marks of begin and end among them.
    attention_dropout : float
        Of attention weights; 0 is a good deal faster on a CPU.
    tokeniser : str or None
        Fingerprint of what made the tokens that it learnt from.

    Example
    -------
    >>> dictionary = TokenDictionary([(0, 1), (2, 2)], codes=3)
    >>> encoder = TokenEncoder(dictionary, 20, 16, 2, 2, 32)
    >>> tokens = torch.tensor([[0, 4, 5, 2], [0, 4, 2, 1]])
    >>> encoder(tokens, torch.tensor([4, 3])).shape
    torch.Size([2, 4, 16])
    """

    def __init__(
        self,
        dictionary,
        frame_ms,
        hidden_size=768,
        num_layers=12,
        num_heads=12,
        feed_forward=3072,
        dropout=0.1,
        max_length=2048,
        attention_dropout=0.1,
        tokeniser=None,
    ):
        super().__init__()
        config = RobertaConfig(
            vocab_size=len(dictionary),
            hidden_size=hidden_size,
            num_hidden_layers=num_layers,
            num_attention_heads=num_heads,
            intermediate_size=feed_forward,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=attention_dropout,
            # RoBERTa counts positions from the number after the padding's.
            max_position_embeddings=max_length + PAD + 1,
            type_vocab_size=1,
            layer_norm_eps=1e-5,
            bos_token_id=BOS,
            pad_token_id=PAD,
            eos_token_id=EOS,
            frame_ms=frame_ms,
            tokeniser=tokeniser,
        )
        self._take(dictionary, RobertaForMaskedLM(config))

    def _take(self, dictionary, model):
        for module in list(model.modules()):  # the same, faster on a CPU
            for name, part in module.named_children():
                if type(part) is torch.nn.Dropout:
                    setattr(module, name, Dropout(part.p))
        self.dictionary, self.model = dictionary, model
        self.frame_ms = model.config.frame_ms
        self.tokeniser = getattr(model.config, "tokeniser", None)
        self.hidden_size = model.config.hidden_size
        self.max_length = model.config.max_position_embeddings - PAD - 1

    def forward(self, tokens, lengths, chosen=None):
        """Returns the states after the last layer.

        Arguments
        ---------
        tokens : torch.Tensor
            Numbers of the dictionary, [batch, tokens]; see
            `slu_kd_lobes.data.token_dictionary.frame_tokens`.
        lengths : torch.Tensor
            Tokens of each item, [batch].
        chosen : torch.Tensor or None
            True for tokens whose scores are wanted, [batch, tokens].

        Returns
        -------
        states : torch.Tensor
            [batch, tokens, hidden_size].
        scores : torch.Tensor
            Only with `chosen`: how likely each number of the dictionary is
            there, before the softmax, [chosen tokens, numbers].

        Raises
        ------
        ValueError
            If there are more tokens than the positions that were learnt.
        """
        if tokens.shape[1] > self.max_length:
            raise ValueError(
                f"an utterance has {tokens.shape[1]} tokens, and the encoder "
                f"reads at most {self.max_length}: leave long ones out"
            )
        order = torch.arange(tokens.shape[1], device=tokens.device)
        mask = order < lengths.to(tokens.device).unsqueeze(1)
        # Without the mask, padding would move the states of the tokens.
        states = self.model.roberta(tokens, attention_mask=mask.long())
        states = states.last_hidden_state
        if chosen is None:
            return states
        return states, self.model.lm_head(states[chosen])

    def save(self, folder):
        """Writes the encoder in the layout of transformers, and its dictionary.

        Arguments
        ---------
        folder : str or Path
        """
        with whole(Path(folder)) as part:
            self.model.save_pretrained(part)
            self.dictionary.save(part / DICTIONARY)
            shutil.rmtree(folder, ignore_errors=True)  # of fewer epochs

    @classmethod
    def load(cls, folder):
        """Reads what `save` wrote.

        Arguments
        ---------
        folder : str or Path

        Returns
        -------
        TokenEncoder

        Raises
        ------
        ValueError
            If the folder has no such model.
        """
        folder = Path(folder)
        encoder = cls.__new__(cls)
        torch.nn.Module.__init__(encoder)
        with readable_source("encoder of audio tokens", folder):
            model = RobertaForMaskedLM.from_pretrained(folder)
            dictionary = TokenDictionary.load(folder / DICTIONARY)
        encoder._take(dictionary, model)
        return encoder
