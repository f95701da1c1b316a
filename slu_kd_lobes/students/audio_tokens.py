"""Audio as discrete tokens: encoders whose features are codes.

Each has the interface of :mod:`slu_kd_lobes.students.encoders`, gives whole
numbers, [batch, tokens, groups], and says how many values a code has (`codes`)
and the time from one token to the next (`frame_ms`). A token depends on how
its utterance is cut: utterances are read whole, and alone.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans
from torch.nn.functional import conv1d, group_norm
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import AutoFeatureExtractor, Wav2Vec2ForPreTraining

from slu_kd_lobes.data.audio import read_waveform
from slu_kd_lobes.students.encoders import PretrainedEncoder
from slu_kd_lobes.utils.fingerprints import (
    check_made_from,
    fingerprint,
    module_fingerprint,
)
from slu_kd_lobes.utils.hub import readable_source
from slu_kd_lobes.utils.sealed import load_sealed, save_sealed

#: Frames that a K-means is fitted on, at most.
MAX_FRAMES = 50_000

#: Files that are encoded together for it.
FILES = 16


def time_of_a_frame(encoder):
    """Time from one frame of an encoder to the next, in ms.

    Arguments
    ---------
    encoder : torch.nn.Module
        See :mod:`slu_kd_lobes.students.encoders`.

    Returns
    -------
    float

    Example
    -------
    >>> from slu_kd_lobes.students.sincnet import SincNetEncoder
    >>> time_of_a_frame(SincNetEncoder())
    160.0
    """
    rate = encoder.sample_rate
    short, long = (
        encoder(torch.zeros(1, seconds * rate))[1].item() for seconds in (4, 8)
    )
    return round(4000 / (long - short), 3)


class KMeansTokens(torch.nn.Module):
    """Nearest centroids of the features of any frozen encoder.

    The channels of a frame are cut into groups, which have clusters of their
    own. Source: the K-means of Hsu et al. 2021 (HuBERT), section II-A, with
    the groups of Baevski et al. 2020 (vq-wav2vec), section 3.3.

    Arguments
    ---------
    make_encoder : callable
        Makes the encoder, of one layer.
    groups : int
        Parts of a frame.
    clusters : int
        Centroids of each.
    source : str or Path or None
        File of a fitted one; it says groups and clusters.

    Raises
    ------
    ValueError
        If the channels cannot be cut so, or the file cannot be used.

    Example
    -------
    >>> from slu_kd_lobes.students.sincnet import SincNetEncoder
    >>> tokens = KMeansTokens(SincNetEncoder, groups=2, clusters=3)
    >>> _ = tokens.fit_frames(torch.rand(20, 256), seed=1)
    >>> codes, lengths = tokens(torch.rand(1, 16000))
    >>> codes.shape, codes.dtype, lengths
    (torch.Size([1, 7, 2]), torch.int64, tensor([7]))
    """

    frozen = True
    layers = 1

    def __init__(self, make_encoder, groups=2, clusters=64, source=None):
        super().__init__()
        encoder = make_encoder()
        width = encoder.feature_size * encoder.layers
        self.made_from = {"encoder": module_fingerprint(encoder)}
        shapes = {
            "centroids": (groups, clusters, width // groups),
            "deviation": (width,),
            "mean": (width,),
        }
        tensors = {name: torch.zeros(size) for name, size in shapes.items()}
        if source is not None:
            tensors = self._read(source)
        elif width % groups:
            raise ValueError(
                f"the {width} channels of a frame cannot be cut into "
                f"kmeans_groups ({groups}) equal parts"
            )
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)
        self.feature_size, self.codes, _ = self.centroids.shape
        self.encoder = encoder.eval().requires_grad_(False)
        self.untrained = encoder.untrained
        self.sample_rate = encoder.sample_rate
        self.frame_ms = time_of_a_frame(self.encoder)

    def train(self, mode=True):
        """Stays in eval mode, whatever trains around it."""
        return super().train(False)

    @torch.no_grad()
    def fit(self, rows, seed):
        """Finds the centroids of training utterances, drawn at random.

        Arguments
        ---------
        rows : list of dict
            With ``wav``, a path.
        seed : int

        Returns
        -------
        KMeansTokens
            This one.

        Raises
        ------
        ValueError
            If there are fewer frames than clusters.
        """
        frames, count = [torch.zeros(0, len(self.mean))], 0
        order = np.random.default_rng(seed).permutation(len(rows))
        with tqdm(total=MAX_FRAMES, desc="Frames to cluster") as progress:
            for start in range(0, len(order), FILES):
                wavs = [
                    read_waveform(rows[i]["wav"], self.sample_rate)
                    for i in order[start : start + FILES]
                ]
                sizes = torch.tensor([len(wav) for wav in wavs])
                found, lengths = self.encoder(
                    pad_sequence(wavs, batch_first=True).to(self.mean.device),
                    (sizes / sizes.max()).to(self.mean.device),
                )
                lengths = lengths.tolist()
                frames += [x[:n].cpu() for x, n in zip(found, lengths)]
                count += sum(lengths)
                progress.update(sum(lengths))
                if count >= MAX_FRAMES:
                    break
        return self.fit_frames(torch.cat(frames)[:MAX_FRAMES], seed)

    @torch.no_grad()
    def fit_frames(self, frames, seed):
        """Finds the centroids of frames; see `fit`.

        Arguments
        ---------
        frames : torch.Tensor
            [frames, channels].
        seed : int

        Returns
        -------
        KMeansTokens
        """
        if len(frames) < self.codes:
            raise ValueError(
                f"there are {len(frames)} frames for {self.codes} clusters: "
                "lower kmeans_clusters, or give more speech"
            )
        self.mean.copy_(frames.mean(0))
        # A channel that never moves tells nothing.
        self.deviation.copy_(frames.std(0).clamp(min=1e-5))
        normal = (frames - self.mean.cpu()) / self.deviation.cpu()
        for group, part in enumerate(normal.chunk(self.feature_size, -1)):
            found = MiniBatchKMeans(
                self.codes, batch_size=4096, n_init=3, random_state=seed
            ).fit(part.numpy())
            centroids = torch.from_numpy(found.cluster_centers_)
            self.centroids[group].copy_(centroids)
        return self

    @torch.no_grad()
    def forward(self, wavs, wav_lens=None):
        """Returns the codes.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms, [batch, samples].
        wav_lens : torch.Tensor or None
            Relative lengths, [batch].

        Returns
        -------
        codes : torch.Tensor
            [batch, tokens, groups].
        lengths : torch.Tensor
            Tokens of each item, [batch].
        """
        if not (self.deviation > 0).all():
            raise ValueError("the K-means of the audio tokens is not fitted")
        features, lengths = self.encoder(wavs, wav_lens)
        normal = (features - self.mean) / self.deviation
        codes = [
            torch.cdist(part, centroids.expand(len(part), -1, -1)).argmin(-1)
            for part, centroids in zip(
                normal.chunk(self.feature_size, -1), self.centroids
            )
        ]
        order = torch.arange(features.shape[1], device=features.device)
        inside = order < lengths.to(features.device).unsqueeze(1)
        return torch.stack(codes, -1) * inside.unsqueeze(-1), lengths

    def save(self, path):
        """Writes the centroids, whole or not at all.

        Arguments
        ---------
        path : str or Path
            A ``.safetensors`` file.
        """
        own = dict(self.named_buffers(recurse=False))
        save_sealed(path, own, made_from=self.made_from)

    def _read(self, path):
        """The tensors of a file, if they go with the encoder."""
        remedy = "fit it again, or give the encoder that it was fitted on"
        if not Path(path).is_file():
            raise FileNotFoundError(
                f"there is no K-means {path}: run the pre-training of the "
                "encoder of audio tokens first"
            )
        tensors, facts = load_sealed(path, "fit the K-means again")
        check_made_from(path, facts["made_from"], self.made_from, remedy)
        return tensors


class Codes(PretrainedEncoder):
    """An encoder that gives codes of one utterance at a time."""

    def __init__(self):
        super().__init__(pool=1)

    def forward(self, wavs, wav_lens=None):
        """Returns the codes and their lengths; see `KMeansTokens`."""
        codes, lengths = super().forward(wavs, wav_lens)
        return codes.long(), lengths


class Wav2Vec2Tokens(Codes):
    """What the quantiser of a wav2vec 2.0 makes of its convolutions.

    Source: Baevski et al. 2020, "wav2vec 2.0", section 2.

    Arguments
    ---------
    source : str
        Folder or hub name of a model that still has its quantiser, such as
        facebook/wav2vec2-base.

    Raises
    ------
    ValueError
        If the model cannot be had, or has no quantiser.
    """

    def __init__(self, source):
        super().__init__()
        with readable_source("quantiser of speech", source):
            self.extractor = AutoFeatureExtractor.from_pretrained(source)
            model, found = Wav2Vec2ForPreTraining.from_pretrained(
                source, output_loading_info=True
            )
        missing = [k for k in found["missing_keys"] if "quantizer" in k]
        if missing:
            raise ValueError(
                f"the wav2vec 2.0 '{source}' was saved without its quantiser: "
                "choose one from before fine-tuning"
            )
        self.sample_rate = self.extractor.sampling_rate
        model = model.float().eval()
        self.convolutions = model.wav2vec2.feature_extractor
        self.norm = model.wav2vec2.feature_projection.layer_norm
        self.scores = model.quantizer.weight_proj
        self.feature_size = model.config.num_codevector_groups
        self.codes = model.config.num_codevectors_per_group
        stride = math.prod(model.config.conv_stride)
        self.frame_ms = 1000 * stride / self.sample_rate
        self.eval()

    def encode(self, wav):
        """Returns the codes of one utterance, [tokens, groups]."""
        inputs = self.extractor(
            wav.cpu().numpy(),
            sampling_rate=self.sample_rate,
            return_tensors="pt",
        )["input_values"].to(wav.device)
        x = self.norm(self.convolutions(inputs)[0].T)
        scores = self.scores(x).unflatten(-1, (self.feature_size, self.codes))
        return scores.argmax(-1).float()

    def extra_repr(self):
        """What shapes the codes beside the weights."""
        return f"extractor={fingerprint(self.extractor.to_dict())}"


#: Of vq-wav2vec's convolutions: a token every 10 ms.
KERNELS = [10, 8, 4, 4, 4, 1, 1, 1]
STRIDES = [5, 4, 2, 2, 2, 1, 1, 1]


class VQWav2Vec(Codes):
    """fairseq's vq-wav2vec with K-means, from its checkpoint, without fairseq.

    Convolutions, each normalised over channels and time, a logarithm, and the
    nearest of the vectors that groups share; settings are the checkpoint's.

    Source: Baevski et al. 2020, "vq-wav2vec: Self-Supervised Learning of
    Discrete Speech Representations", sections 3.2 and 3.3.

    Arguments
    ---------
    checkpoint : str or Path
        Such as ``vq-wav2vec_kmeans.pt``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is another model's.
    """

    frame_ms = 10.0

    def __init__(self, checkpoint):
        super().__init__()
        weights, options = _read_fairseq(checkpoint)
        layer, kernels = "feature_extractor.conv_layers", []
        try:
            for n in range(len(KERNELS)):
                for name, key in _LAYER.items():
                    self._keep(f"{name}{n}", weights[f"{layer}.{n}.{key}"])
                kernels.append(weights[f"{layer}.{n}.0.weight"].shape[2])
            for name, key in _NEAREST.items():
                self._keep(name, weights[f"vector_quantizer.{key}"])
        except KeyError as error:
            raise ValueError(
                f"{checkpoint} is no vq-wav2vec with K-means: no {error}"
            ) from None
        # A checkpoint that is older than a setting does not name it.
        self.activation = options.get("activation", "relu")
        self.compressed = options.get("log_compression", True)
        kernels += [0] * (f"{layer}.{len(kernels)}.0.weight" in weights)
        if kernels != KERNELS or options.get("skip_connections_feat"):
            raise ValueError(f"{checkpoint} has other convolutions than ours")
        self.codes, _, size = self.vectors.shape
        self.feature_size = len(self.projection) // size
        self.eval()

    def _keep(self, name, tensor):
        self.register_buffer(name, tensor.float())

    def encode(self, wav):
        """Returns the codes of one utterance, [tokens, groups]."""
        x = wav.view(1, 1, -1)
        activation = getattr(torch.nn.functional, self.activation)
        for n, stride in enumerate(STRIDES):
            weight, scale, shift = (getattr(self, f"{k}{n}") for k in _LAYER)
            x = conv1d(x, weight, stride=stride)
            x = activation(group_norm(x, 1, scale, shift))
        if self.compressed:
            x = (x.abs() + 1).log()
        groups = self.feature_size
        x = conv1d(x, self.projection, groups=groups)
        x = group_norm(x, groups, self.scale, self.shift)
        x = x[0].T.unflatten(-1, (groups, -1))  # [tokens, groups, values]
        vectors = self.vectors.expand(-1, groups, -1)
        distances = torch.cdist(
            x.transpose(0, 1),
            vectors.transpose(0, 1),
            compute_mode="donot_use_mm_for_euclid_dist",
        )
        return distances.argmin(-1).T.float()

    def extra_repr(self):
        """What shapes the codes beside the weights."""
        return f"{self.activation}, log_compression={self.compressed}"


_LAYER = {"weight": "0.weight", "scale": "2.weight", "shift": "2.bias"}
_NEAREST = {
    "projection": "projection.0.weight",
    "scale": "projection.1.weight",
    "shift": "projection.1.bias",
    "vectors": "embedding",
}


class _Meter:
    """Stands for the meters of a training run, which old checkpoints hold."""


def _read_fairseq(checkpoint):
    """Weights and settings of a checkpoint of fairseq; none of it is run."""
    if not Path(checkpoint).is_file():
        raise FileNotFoundError(
            f"there is no checkpoint {checkpoint}: give fairseq's "
            "vq-wav2vec_kmeans.pt, or choose kmeans for tokeniser"
        )
    try:
        names = "Average", "Stopwatch", "Time"
        meters = [(_Meter, f"fairseq.meters.{name}Meter") for name in names]
        with torch.serialization.safe_globals([argparse.Namespace, *meters]):
            content = torch.load(checkpoint, "cpu", weights_only=True)
        args = content.get("args") or content.get("cfg", {}).get("model", {})
        args = args if isinstance(args, dict) else vars(args)
        return dict(content["model"]), args
    except Exception as error:
        raise ValueError(
            f"{checkpoint} is no checkpoint of fairseq ({type(error).__name__})"
        ) from error
