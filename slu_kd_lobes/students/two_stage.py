"""A student of audio tokens: a BERT, an acoustic model, a maximum over time.

Source: Kim et al. 2020, "Two-stage Textual Knowledge Distillation for
End-to-End Spoken Language Understanding", section 2, and its published code.
"""

import torch

from slu_kd_lobes.data.span_masks import mask_channels, mask_frames, mask_spans
from slu_kd_lobes.data.token_dictionary import frame_tokens
from slu_kd_lobes.students.acoustic_model import AcousticModel
from slu_kd_lobes.students.token_encoder import TokenEncoder
from slu_kd_lobes.utils.fingerprints import module_fingerprint


class TwoStageStudent(torch.nn.Module):
    """Codes of audio tokens to slot logits.

    Arguments
    ---------
    num_logits : int
        Values of all slots together.
    input_size : int
        Codes of a token.
    token_encoder : str or Path
        Folder of a pre-trained `TokenEncoder`.
    acoustic_model : str or Path or None
        File of a pre-trained `AcousticModel`; None starts from random weights.
    hidden_size, num_layers, channels, stride : int
        Of the acoustic model.
    freeze : bool
        Whether the encoder of tokens stays as it is.
    encoder_dropout : bool
        Whether a frozen encoder has its dropout on while the rest trains, as in
        the published code.
    augment : bool
        Whether tokens, frames and channels are masked in training.
    layers : int
        Of the encoder; audio tokens have one.

    Raises
    ------
    ValueError
        If something pre-trained cannot be used, or is of other tokens.

    Example
    -------
    >>> from slu_kd_lobes.data.token_dictionary import TokenDictionary
    >>> dictionary = TokenDictionary([(0, 1), (2, 2)], codes=3)
    >>> folder = getfixture("tmp_path") / "encoder"
    >>> TokenEncoder(dictionary, 20, 16, 2, 2, 32).save(folder)
    >>> student = TwoStageStudent(5, 2, folder, None, 8, 1, 2)
    >>> student(torch.randint(0, 3, (4, 25, 2))).shape
    torch.Size([4, 5])
    """

    def __init__(
        self,
        num_logits,
        input_size,
        token_encoder,
        acoustic_model=None,
        hidden_size=768,
        num_layers=5,
        channels=32,
        stride=2,
        freeze=True,
        encoder_dropout=True,
        augment=False,
        layers=1,
    ):
        super().__init__()
        if token_encoder is None:
            raise ValueError(
                "token_encoder: give the encoder folder of a run of stage 1"
            )
        self.encoder = TokenEncoder.load(token_encoder)
        self.dictionary = self.encoder.dictionary
        if self.dictionary.groups != input_size or layers != 1:
            raise ValueError(
                f"the encoder in {token_encoder} reads tokens of "
                f"{self.dictionary.groups} codes, and those of the audio have "
                f"{input_size}: choose the tokeniser that it was trained with"
            )
        self.frozen = freeze
        self.encoder_dropout = encoder_dropout
        self.encoder.requires_grad_(False)  # what names masked tokens, too
        self.encoder.model.roberta.requires_grad_(not freeze)
        self.augment = augment
        self.acoustic = AcousticModel(
            self.encoder.hidden_size,
            *(hidden_size, num_layers, channels, stride),
        )
        encoder = module_fingerprint(self.encoder)
        self.made_from = {
            "encoder": self.encoder.tokeniser,
            "token encoder": encoder,
            "dictionary": self.dictionary.fingerprint,
            "acoustic model": acoustic_model
            and self.acoustic.load(acoustic_model, encoder),
        }
        self.frame_size = hidden_size
        self.classifier = torch.nn.Linear(hidden_size, num_logits)

    def train(self, mode=True):
        """A frozen encoder has its dropout on only if that is wanted."""
        super().train(mode)
        if self.frozen and not self.encoder_dropout:
            self.encoder.eval()
        return self

    def forward(self, features, lengths=None, return_frames=False):
        """Returns the logits of each utterance.

        Arguments
        ---------
        features : torch.Tensor
            Codes, [batch, tokens, groups].
        lengths : torch.Tensor or None
            Tokens of each item, [batch].
        return_frames : bool
            Whether the frames under the maximum are returned as well; those
            after an item's end are zero.

        Returns
        -------
        logits : torch.Tensor
            [batch, num_logits].
        frames : torch.Tensor
            Only if asked for, [batch, frames, frame_size].
        """
        if lengths is None:
            lengths = torch.full((len(features),), features.shape[1])
        frames, lengths = self.frames(features, lengths.to(features.device))
        order = torch.arange(frames.shape[1], device=frames.device)
        inside = order < lengths.unsqueeze(1)
        # The published code lets the zeros of the padding into the maximum.
        best = frames.masked_fill(~inside.unsqueeze(-1), float("-inf")).amax(1)
        logits = self.classifier(best)
        return (logits, frames) if return_frames else logits

    def frames(self, codes, lengths):
        """Returns the frames of the acoustic model, and their lengths."""
        numbers = self.dictionary.look_up(codes)
        tokens, lengths = frame_tokens(numbers, lengths, eos=False)
        frame_ms = self.encoder.frame_ms
        masks = self.training and self.augment
        if masks:
            tokens, _ = mask_spans(
                tokens, lengths, self.dictionary.mask, frame_ms, 0.2, 50
            )
        with torch.set_grad_enabled(
            torch.is_grad_enabled() and not self.frozen
        ):
            states = self.encoder(tokens, lengths)
        if masks:
            states = mask_frames(states, lengths, frame_ms)
            states = mask_channels(states)
        return self.acoustic(states, lengths)
