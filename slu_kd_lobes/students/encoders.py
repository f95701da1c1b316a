"""Pre-trained encoders of other makers behind the student's one interface.

An encoder here is a module that is called with waveforms and relative lengths
and returns features, [batch, frames, channels], and the frames of each item.
It says its `sample_rate` in Hz, the `feature_size` of one layer in channels,
how many `layers` stand side by side in the channels, whether it stays `frozen`
as its source has it, and whether it is `untrained`. The student and the
features need no more. The SincNet encoder of the papers is in
:mod:`slu_kd_lobes.students.sincnet`.
"""

import re

import torch
from huggingface_hub.constants import HF_HUB_CACHE
from speechbrain import inference
from speechbrain.integrations.huggingface.wav2vec2 import Wav2Vec2
from speechbrain.integrations.huggingface.whisper import Whisper
from transformers import AutoConfig

from slu_kd_lobes.utils.hub import load_interface, readable_source


class PretrainedEncoder(torch.nn.Module):
    """A frozen encoder that reads one utterance at a time.

    Most encoders of others let the padding of a batch reach the features, so
    each utterance is encoded alone: its features are the same in any batch.
    The average over `pool` frames brings them to the student's frame rate.

    Arguments
    ---------
    pool : int
        Frames that make one of the student's.

    Raises
    ------
    ValueError
        If `pool` is below 1.
    """

    frozen = True
    untrained = False
    sample_rate = 16000
    layers = 1
    #: Shorter audio is filled up with silence to this many samples.
    min_samples = 1600

    def __init__(self, pool):
        super().__init__()
        if pool < 1:
            raise ValueError(f"pool {pool} is not possible: it must be above 0")
        self.pool = pool

    def train(self, mode=True):
        """Stays in eval mode, whatever trains around it."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, wavs, wav_lens=None):
        """Returns the features.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms, [batch, samples], 16 kHz.
        wav_lens : torch.Tensor or None
            Relative lengths, [batch].

        Returns
        -------
        features : torch.Tensor
            [batch, frames, layers * feature_size], zero after an item's end.
        lengths : torch.Tensor
            Frames of each item, [batch].
        """
        if wav_lens is None:
            wav_lens = torch.ones(len(wavs))
        samples = (wav_lens * wavs.shape[1]).round().long().tolist()
        features = []
        for wav, size in zip(wavs, samples):
            missing = max(0, self.min_samples - size)
            wav = torch.nn.functional.pad(wav[:size], (0, missing))
            features.append(average_frames(self.encode(wav), self.pool))
        lengths = torch.tensor([len(x) for x in features], device=wavs.device)
        return torch.nn.utils.rnn.pad_sequence(features, True), lengths

    def encode(self, wav):
        """Returns the features of one utterance.

        Arguments
        ---------
        wav : torch.Tensor
            Waveform, [samples].

        Returns
        -------
        torch.Tensor
            [frames, channels].
        """
        raise NotImplementedError

    def extra_repr(self):
        """What shapes the features beside the weights."""
        return f"pool={self.pool}"


class TransformerEncoder(PretrainedEncoder):
    """wav2vec 2.0, HuBERT, WavLM or Whisper, by folder or hub name.

    Whisper reads as many frames as there are, not the 30 s that its decoder
    needs; longer audio is read in pieces of 30 s.

    Source: Baevski et al. 2020; Hsu et al. 2021; Chen et al. 2022; Radford et
    al. 2022. The weighted sum of layers: Yang et al. 2021 (SUPERB), section 3.

    Arguments
    ---------
    source : str
        Folder or hub name.
    layers : str, int or list
        ``last`` for the output; a number for the state after that transformer
        layer, 0 for what enters the first; a list of numbers or ``all`` for
        several, of which the student learns a weighted sum; as text, ``2 4 6``.
    pool : int
        Frames of 20 ms that make one of the student's; 0 stands for 8.
    save_path : str or None
        Where a model from the hub is kept; None is the hub's own cache.

    Raises
    ------
    ValueError
        If the model cannot be had, or does not have the layers.
    """

    def __init__(self, source, layers="last", pool=0, save_path=None):
        super().__init__(pool or 8)
        save_path = save_path or HF_HUB_CACHE
        with readable_source("speech encoder", source):
            config = AutoConfig.from_pretrained(source, cache_dir=save_path)
            options = {"freeze": True, "output_all_hiddens": True}
            self.is_whisper = config.model_type == "whisper"
            if self.is_whisper:
                options["encoder_only"] = True
            loader = Whisper if self.is_whisper else Wav2Vec2
            # Weights in half precision are computed with in single.
            self.model = loader(source, save_path, **options).float()
        depth = config.num_hidden_layers
        if self.is_whisper:
            depth = config.encoder_layers
        text = str(layers)
        numbers = re.findall(r"-?\d+", text)
        if not re.fullmatch(r"[\[\],\s\d-]*", text):  # such as 2.5
            numbers = []
        numbers = [int(number) for number in numbers]
        named = {"last": [depth], "all": list(range(depth + 1))}
        self.wanted = named.get(text, numbers)
        if not self.wanted or not set(self.wanted) <= set(range(depth + 1)):
            raise ValueError(
                f"layers {layers} of the speech encoder '{source}' cannot be "
                f"had: choose last, all, or numbers from 0 to {depth}"
            )
        self.layers = len(self.wanted)
        self.feature_size = config.hidden_size
        self.eval()

    def encode(self, wav):
        """Returns the wanted layers side by side; see the base class."""
        if self.is_whisper:
            longest = self.model._n_samples
            pieces = wav.split(longest)
            hidden = torch.cat([self._whisper(piece) for piece in pieces], 1)
        else:
            hidden = self.model(wav.unsqueeze(0)).squeeze(1)
        return hidden[self.wanted].transpose(0, 1).flatten(1)

    def _whisper(self, wav):
        """States of all layers, [1 + layers, frames, channels]."""
        encoder = self.model.model.encoder
        mel = self.model.log_mel_spectrogram(wav.unsqueeze(0))
        x = torch.nn.functional.gelu(encoder.conv1(mel))
        x = torch.nn.functional.gelu(encoder.conv2(x)).transpose(1, 2)
        x = x + encoder.embed_positions.weight[: x.shape[1]]
        states = [x]
        for layer in encoder.layers:
            states.append(layer(states[-1], None))
        states[-1] = encoder.layer_norm(states[-1])
        return torch.cat(states)

    def extra_repr(self):
        """What shapes the features beside the weights."""
        return f"layers={self.wanted}, {super().extra_repr()}"


class TokenEncoder(inference.ASR.EncoderASR):
    """Encodes speech as one vector a token: what CIF, or its rival, makes.

    Loads what recipes/LibriSpeech/CIF-HKD trains.
    """

    def encode_batch(self, wavs, wav_lens):
        """Returns the vectors of tokens, [batch, tokens, channels].

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms, [batch, samples].
        wav_lens : torch.Tensor
            Relative lengths, [batch].

        Raises
        ------
        ValueError
            If the recogniser has no tokens.
        """
        frames = super().encode_batch(wavs, wav_lens)
        fired = self.mods.recogniser.recognise(*frames).fired
        if fired is None:
            raise ValueError(
                "this recogniser has frames, and no vectors of tokens: choose "
                "the interface EncoderASR"
            )
        # One of nothing where no token is heard.
        nothing = int(fired.vectors.shape[1] == 0)
        return torch.nn.functional.pad(fired.vectors, (0, 0, 0, nothing))


class SpeechBrainEncoder(PretrainedEncoder):
    """The encoder of any pre-trained SpeechBrain ASR, by folder or hub name.

    For instance ``speechbrain/asr-crdnn-rnnlm-librispeech``, which SpeechBrain's
    own recipe for Fluent Speech Commands starts from.

    Arguments
    ---------
    source : str
        Folder or hub name.
    interface : str
        SpeechBrain's class that loads it: ``EncoderDecoderASR``,
        ``EncoderASR`` or ``WaveformEncoder``; or ``TokenEncoder``.
    pool : int
        Frames of the encoder that make one of the student's; 0 stands for 4,
        or one of a token encoder.

    Raises
    ------
    ValueError
        If the model cannot be had, or the interface cannot load it.
    """

    def __init__(self, source, interface="EncoderDecoderASR", pool=0):
        super().__init__(pool or (1 if interface == "TokenEncoder" else 4))
        interfaces = {
            "TokenEncoder": TokenEncoder,
            "EncoderDecoderASR": inference.ASR.EncoderDecoderASR,
            "EncoderASR": inference.ASR.EncoderASR,
            "WaveformEncoder": inference.encoders.WaveformEncoder,
        }
        self.model = load_interface(
            "speech encoder", source, interface, interfaces
        )
        self.sample_rate = getattr(self.model.hparams, "sample_rate", 16000)
        self.eval()
        self.feature_size = self.encode(torch.zeros(self.sample_rate)).shape[-1]

    def encode(self, wav):
        """Returns the output of the encoder; see the base class."""
        self.model.device = wav.device
        features = self.model.encode_batch(
            wav.unsqueeze(0), torch.ones(1, device=wav.device)
        )
        if isinstance(features, tuple):  # with the number of frames
            features = features[0]
        return features.squeeze(0)


def average_frames(x, size):
    """Means of consecutive frames; the last one of those that are left.

    Arguments
    ---------
    x : torch.Tensor
        [frames, channels].
    size : int
        Frames that make one.

    Returns
    -------
    torch.Tensor
        [ceil(frames / size), channels].

    Example
    -------
    >>> average_frames(torch.tensor([[1.0], [3.0], [7.0]]), 2)
    tensor([[2.],
            [7.]])
    """
    return torch.nn.functional.avg_pool1d(
        x.T, size, ceil_mode=True, count_include_pad=False
    ).T
