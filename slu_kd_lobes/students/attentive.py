"""Speech transformers that train, and tell how much attention a frame gets.

Source: Ni et al. 2023, "Adaptive Knowledge Distillation between Text and
Speech Pre-trained Models" (PAD), whose student is a wav2vec 2.0.
"""

import contextlib

import torch
import transformers
from torch.nn.functional import dropout, gelu
from transformers import AutoConfig, AutoFeatureExtractor, AutoTokenizer

from slu_kd_lobes.losses.alignment import Units
from slu_kd_lobes.losses.priors import received_attention
from slu_kd_lobes.students.encoders import PretrainedEncoder
from slu_kd_lobes.utils.fingerprints import fingerprint
from slu_kd_lobes.utils.hub import readable_source

#: So that the weights of every layer are there, as they are for every frame.
SETTINGS = {
    "attention_dropout": 0.0,
    "layerdrop": 0.0,
    "encoder_layerdrop": 0.0,
    "mask_time_prob": 0.0,
    "mask_feature_prob": 0.0,
}


class FirstFrames(PretrainedEncoder):
    """What turns audio into the frames that enter a transformer.

    It stays as it is, so its frames are computed once. Each utterance is read
    alone: the normalisation over time of some models would let the padding in.

    Arguments
    ---------
    base : transformers.PreTrainedModel
        wav2vec 2.0, HuBERT, WavLM or Whisper.
    extractor : transformers.FeatureExtractionMixin
        What the model hears of the audio.
    """

    def __init__(self, base, extractor):
        super().__init__(pool=1)
        self.extractor = extractor
        self.is_whisper = base.config.model_type == "whisper"
        if self.is_whisper:
            self.conv1, self.conv2 = base.encoder.conv1, base.encoder.conv2
            self.positions = base.encoder.embed_positions
        else:
            self.convolutions = base.feature_extractor

    def encode(self, wav):
        """Returns the frames of one utterance; see the base class."""
        options = {"padding": False} if self.is_whisper else {}
        if self.is_whisper and len(wav) > self.extractor.n_samples:
            raise ValueError(
                f"an utterance is {len(wav) / self.sample_rate:.1f} s long, and "
                f"Whisper reads {self.extractor.chunk_length} s: leave it out, "
                "or lower longest"
            )
        inputs = self.extractor(
            wav.cpu().numpy(),
            sampling_rate=self.sample_rate,
            return_tensors="pt",
            **options,
        )
        x = inputs[self.extractor.model_input_names[0]].to(wav.device)
        if not self.is_whisper:
            return self.convolutions(x)[0].T
        x = gelu(self.conv2(gelu(self.conv1(x))))[0].T
        return x + self.positions.weight[: len(x)]

    def extra_repr(self):
        """What shapes the frames beside the weights."""
        return f"extractor={fingerprint(self.extractor.to_dict())}"


class AttentiveEncoder(torch.nn.Module):
    """wav2vec 2.0, HuBERT, WavLM or Whisper, whose transformer layers train.

    It is called with the frames of its `first_frames`, which stay as they are.

    Arguments
    ---------
    source : str
        Folder or hub name.

    Raises
    ------
    ValueError
        If the model cannot be had, or is of another kind.
    """

    def __init__(self, source):
        super().__init__()
        self.source = source
        with readable_source("speech encoder", source):
            config = AutoConfig.from_pretrained(source)
            self.extractor = AutoFeatureExtractor.from_pretrained(source)
            self.settings = {
                key: getattr(config, key)
                for key in SETTINGS
                if hasattr(config, key)
            }
            for key in self.settings:
                setattr(config, key, SETTINGS[key])
            kind = getattr(transformers, config.architectures[0])
            self.model = kind.from_pretrained(
                source, config=config, attn_implementation="eager"
            ).float()
        self.is_whisper = config.model_type == "whisper"
        self.base = self.model.base_model
        layers = self.base.encoder.layers
        attention = "self_attn" if self.is_whisper else "attention"
        if not hasattr(layers[0], attention):
            raise ValueError(
                f"the speech encoder '{source}' is a {config.model_type}: "
                "choose a wav2vec 2.0, HuBERT, WavLM or Whisper"
            )
        self.model.requires_grad_(False)
        for part in self._trained():
            part.requires_grad_(True)
        self.feature_size = config.hidden_size
        self._received, self._mask = [], None
        for layer in layers:
            module = getattr(layer, attention)
            module.register_forward_hook(self._keep_received)

    def _trained(self):
        encoder = self.base.encoder
        if self.is_whisper:
            return [encoder.layers, encoder.layer_norm]
        return [self.base.feature_projection, encoder]

    def _keep_received(self, module, arguments, output):
        """Reduces the weights of a layer before the next one makes its own."""
        if output[1] is None:
            raise ValueError(
                f"{type(module).__name__} gives no attention weights, which "
                "say how significant a frame is: choose another model"
            )
        self._received.append(received_attention(output[1], self._mask))

    def first_frames(self):
        """What makes the frames that this is called with.

        Returns
        -------
        FirstFrames
        """
        return FirstFrames(self.base, self.extractor)

    def forward(self, frames, lengths):
        """Returns the frames after all layers, and how much they count.

        Arguments
        ---------
        frames : torch.Tensor
            Those of `first_frames`, [batch, frames, channels].
        lengths : torch.Tensor
            Frames of each item, [batch].

        Returns
        -------
        Units
            [batch, frames, feature_size].
        """
        order = torch.arange(frames.shape[1], device=frames.device)
        self._received, self._mask = [], order < lengths.unsqueeze(-1)
        if self.is_whisper:
            frames = self._whisper(frames, self._mask)
        else:
            frames = self.base.feature_projection(frames)
            if isinstance(frames, tuple):  # with what it normalised
                frames = frames[0]
            frames = self.base.encoder(
                frames, attention_mask=self._mask
            ).last_hidden_state
        return Units(frames, self._mask, torch.stack(self._received).mean(0))

    def _whisper(self, frames, mask):
        """Whisper's transformer over as many frames as there are."""
        encoder = self.base.encoder
        frames = dropout(frames, encoder.dropout, self.training)
        lowest = torch.finfo(frames.dtype).min
        hidden = torch.zeros_like(mask, dtype=frames.dtype)
        hidden = hidden.masked_fill(~mask, lowest).unsqueeze(1).unsqueeze(1)
        for layer in encoder.layers:
            frames = layer(frames, hidden)
        return encoder.layer_norm(frames)

    def save_pretrained(self, folder):
        """Writes the model in the layout of its source, for anyone to load.

        Arguments
        ---------
        folder : str or Path
        """
        for key, value in self.settings.items():
            setattr(self.model.config, key, value)
        self.model.save_pretrained(folder)
        self.extractor.save_pretrained(folder)
        tokenizer = None
        with contextlib.suppress(Exception):  # not every model writes text
            tokenizer = AutoTokenizer.from_pretrained(self.source)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        for key in self.settings:
            setattr(self.model.config, key, SETTINGS[key])
