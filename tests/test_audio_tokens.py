"""Audio as discrete tokens: three tokenisers, one interface."""

import argparse
import sys
import types

import numpy as np
import pytest
import torch
from speechbrain.dataio import audio_io
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForPreTraining,
)

from slu_kd_lobes.data.feature_store import FeatureStore
from slu_kd_lobes.data.features import Stored
from slu_kd_lobes.students.audio_tokens import (
    STRIDES,
    KMeansTokens,
    VQWav2Vec,
    Wav2Vec2Tokens,
)
from slu_kd_lobes.students.sincnet import SincNetEncoder
from slu_kd_lobes.utils.fingerprints import module_fingerprint


def phonemes():
    """A SincNet whose features are those of phonemes; always the same one."""
    torch.manual_seed(0)
    return SincNetEncoder(hidden_size=8, level="phoneme")


def kmeans(**options):
    """Fitted on noise."""
    tokens = KMeansTokens(phonemes, **{"groups": 2, "clusters": 5, **options})
    torch.manual_seed(1)
    with torch.no_grad():
        frames, _ = phonemes().eval()(torch.randn(4, 16000))
    return tokens.fit_frames(frames.flatten(0, 1), seed=3)


@pytest.fixture
def wav2vec2(tmp_path):
    """A small random wav2vec 2.0 with its quantiser."""
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8, 8),
        conv_kernel=(10, 4),
        conv_stride=(40, 8),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        num_codevector_groups=2,
        num_codevectors_per_group=6,
        codevector_dim=8,
        proj_codevector_dim=8,
    )
    model = Wav2Vec2ForPreTraining(config).eval()
    # Scores of random weights are nearly equal; these tell frames apart.
    torch.nn.init.normal_(model.quantizer.weight_proj.weight)
    model.save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    return tmp_path, model


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint in fairseq's layout, of few channels."""
    torch.manual_seed(0)
    kernels, size, width = (10, 8, 4, 4, 4, 1, 1, 1), 1, 12
    weights = {}
    for number, kernel in enumerate(kernels):
        layer = f"feature_extractor.conv_layers.{number}"
        weights[f"{layer}.0.weight"] = torch.randn(width, size, kernel)
        weights[f"{layer}.2.weight"] = torch.rand(width) + 0.5
        weights[f"{layer}.2.bias"] = torch.randn(width)
        size = width
    weights["vector_quantizer.embedding"] = torch.randn(320, 1, width // 2)
    weights["vector_quantizer.projection.0.weight"] = torch.randn(
        width, width // 2, 1
    )
    weights["vector_quantizer.projection.1.weight"] = torch.rand(width) + 0.5
    weights["vector_quantizer.projection.1.bias"] = torch.randn(width)
    weights["feature_aggregator.other"] = torch.zeros(1)
    path = tmp_path / "vq.pt"
    arguments = argparse.Namespace(arch="wav2vec", vq_vars=320)
    torch.save({"args": arguments, "model": weights}, path)
    return path, weights


def normalised(x, groups, scale, shift):
    """GroupNorm over the channels of a group and all times, in plain words."""
    parts = []
    for part in x.chunk(groups):
        mean = part.mean()
        deviation = ((part - mean) ** 2).mean().add(1e-5).sqrt()
        parts.append((part - mean) / deviation)
    return torch.cat(parts) * scale[:, None] + shift[:, None]


@pytest.mark.parametrize(
    "place, settings",
    [
        ("args", {}),
        ("args", {"log_compression": False}),
        ("cfg", {"activation": "gelu", "log_compression": True}),
    ],
)
def test_vq_wav2vec_computes_the_published_formulas(
    checkpoint, place, settings
):
    """Restated step by step in double precision, on random weights.

    Activation and logarithm are those that the checkpoint was trained with;
    newer ones of fairseq name them elsewhere.
    """
    path, weights = checkpoint
    said = {"args": None, "cfg": {"model": settings}}
    if place == "args":
        said = {"args": argparse.Namespace(arch="wav2vec", **settings)}
    torch.save({**said, "model": weights}, path)
    model = VQWav2Vec(path)
    wav = torch.randn(1, 8000)
    codes, lengths = model(wav)
    x = wav.double()
    for number, stride in enumerate(STRIDES):
        layer = f"feature_extractor.conv_layers.{number}"
        kernel = weights[f"{layer}.0.weight"].double()
        windows = x.unfold(1, kernel.shape[2], stride)  # [in, times, kernel]
        x = torch.einsum("itk,cik->ct", windows, kernel)
        scale, shift = (
            weights[f"{layer}.2.{name}"].double() for name in ("weight", "bias")
        )
        x = normalised(x, 1, scale, shift)
        if settings.get("activation") == "gelu":
            x = x * (1 + torch.erf(x / 2**0.5)) / 2
        else:
            x = x.clamp(min=0)
    if settings.get("log_compression", True):
        x = (x.abs() + 1).log()
    projection = weights["vector_quantizer.projection.0.weight"].double()
    halves = [
        part[:, :, 0] @ half
        for part, half in zip(projection.chunk(2), x.chunk(2))
    ]
    scale, shift = (
        weights[f"vector_quantizer.projection.1.{name}"].double()
        for name in ("weight", "bias")
    )
    x = normalised(torch.cat(halves), 2, scale, shift)
    vectors = weights["vector_quantizer.embedding"].double()[:, 0]
    expected = torch.stack(
        [
            ((half.T[:, None] - vectors) ** 2).sum(-1).argmin(-1)
            for half in x.chunk(2)
        ],
        -1,
    )
    assert codes.shape == (1, lengths.item(), 2)
    assert (codes[0] != expected).float().mean() < 0.01  # near ties
    assert len(expected.unique(dim=0)) > 5
    assert (model.codes, model.feature_size, model.frame_ms) == (320, 2, 10.0)
    assert codes.shape[1] == pytest.approx(8000 / 160, abs=3)


def test_another_checkpoint_is_refused(checkpoint, tmp_path):
    """In one sentence; nothing of it is run."""
    path, weights = checkpoint
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        VQWav2Vec(tmp_path / "nowhere.pt")
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no checkpoint of fairseq"):
        VQWav2Vec(path)
    torch.save({"model": {"encoder.weight": torch.zeros(1)}}, path)
    with pytest.raises(ValueError, match="no vq-wav2vec with K-means"):
        VQWav2Vec(path)
    torch.save({"args": print, "model": weights}, path)
    with pytest.raises(ValueError, match="no checkpoint of fairseq"):
        VQWav2Vec(path)


@pytest.mark.parametrize("change", ["more", "kernel", "skip"])
def test_other_convolutions_are_refused(checkpoint, change):
    """One more, a longer one, and some whose input is added again."""
    path, weights = checkpoint
    layer = "feature_extractor.conv_layers"
    if change == "more":
        weights[f"{layer}.8.0.weight"] = torch.zeros(12, 12, 1)
    if change == "kernel":
        weights[f"{layer}.5.0.weight"] = torch.zeros(12, 12, 3)
    args = argparse.Namespace(skip_connections_feat=change == "skip")
    torch.save({"args": args, "model": weights}, path)
    with pytest.raises(ValueError, match="has other convolutions"):
        VQWav2Vec(path)


def test_a_checkpoint_with_meters_is_read_without_fairseq(checkpoint):
    """As of 2019: pickled in the format of that time, with objects inside."""
    path, weights = checkpoint
    expected, _ = VQWav2Vec(path)(wav := torch.randn(1, 4000))
    names = "AverageMeter", "TimeMeter", "StopwatchMeter"
    module = types.ModuleType("fairseq.meters")
    for name in names:
        kind = type(name, (), {"__module__": "fairseq.meters"})
        setattr(module, name, kind)
    meters = {name: getattr(module, name)() for name in names}
    for meter in meters.values():
        meter.sum, meter.start = 1.5, None
    content = {
        "args": argparse.Namespace(arch="wav2vec"),
        "model": weights,
        "extra_state": {"train_meters": meters, "val_loss": 2.5},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "fairseq", types.ModuleType("fairseq"))
        patch.setitem(sys.modules, "fairseq.meters", module)
        torch.save(content, path, _use_new_zipfile_serialization=False)
    assert torch.equal(VQWav2Vec(path)(wav)[0], expected)


def test_wav2vec2_tokens_are_those_of_its_quantiser(wav2vec2):
    """The vectors they stand for are those that it returns."""
    folder, model = wav2vec2
    tokens = Wav2Vec2Tokens(str(folder))
    wav = torch.randn(9000)
    codes, lengths = tokens(wav.unsqueeze(0))
    assert (tokens.feature_size, tokens.codes, tokens.frame_ms) == (2, 6, 20)
    normal = (wav - wav.mean()) / (wav.var(correction=0) + 1e-7).sqrt()
    with torch.no_grad():
        features = model.wav2vec2(normal.unsqueeze(0)).extract_features
        expected, _ = model.quantizer(features)
    vectors = model.quantizer.codevectors.view(2, 6, -1)
    found = torch.cat([vectors[g][codes[0, :, g]] for g in range(2)], -1)
    torch.testing.assert_close(found, expected[0])
    assert len(codes[0].unique(dim=0)) > 3


def test_a_wav2vec2_says_which_rate_it_hears(wav2vec2, tmp_path):
    """Refused with the corpus of another rate, before anything is encoded."""
    folder, _ = wav2vec2
    Wav2Vec2FeatureExtractor(sampling_rate=8000).save_pretrained(folder)
    tokens = Wav2Vec2Tokens(str(folder))
    assert (tokens.sample_rate, tokens.frame_ms) == (8000, 40)
    with pytest.raises(ValueError, match="hears 8000 Hz"):
        Stored(tokens, "cpu", tmp_path / "store", dtype="int16")


def test_a_wav2vec2_without_its_quantiser_is_refused(wav2vec2):
    """As those that were fine-tuned for recognition."""
    folder, model = wav2vec2
    model.wav2vec2.save_pretrained(folder)
    with pytest.raises(ValueError, match="saved without its quantiser"):
        Wav2Vec2Tokens(str(folder))


def test_kmeans_codes_are_the_nearest_centroids():
    """Found one frame and one centroid at a time."""
    tokens, wav = kmeans(), torch.randn(1, 12000)
    codes, lengths = tokens(wav)
    with torch.no_grad():
        features, _ = phonemes().eval()(wav)
    normal = (features[0] - tokens.mean) / tokens.deviation
    for t in range(lengths.item()):
        for group, part in enumerate(normal[t].chunk(2)):
            distances = [
                float(((part - centroid) ** 2).sum())
                for centroid in tokens.centroids[group]
            ]
            assert codes[0, t, group] == int(np.argmin(distances))
    assert codes.unique().numel() > 2
    assert (tokens.codes, tokens.feature_size, tokens.frame_ms) == (5, 2, 40)


@pytest.mark.parametrize("kind", ["kmeans", "wav2vec2", "vq"])
def test_batches_and_padding_change_no_code(kind, wav2vec2, checkpoint):
    """Each utterance has the codes that it has alone; 0 after its end."""
    tokens = {
        "kmeans": kmeans,
        "wav2vec2": lambda: Wav2Vec2Tokens(str(wav2vec2[0])),
        "vq": lambda: VQWav2Vec(checkpoint[0]),
    }[kind]()
    wavs, sizes = torch.randn(3, 12800), [12800, 6400, 9600]
    for wav, size in zip(wavs, sizes):
        wav[size:] = 0
    shares = torch.tensor(sizes) / 12800
    codes, lengths = tokens(wavs, shares)
    for i, size in enumerate(sizes):
        alone, length = tokens(wavs[i : i + 1, :size])
        assert lengths[i] == length[0]
        assert torch.equal(codes[i, : lengths[i]], alone[0])
        assert not codes[i, lengths[i] :].any()
    again, _ = tokens(wavs.flip(0), shares.flip(0))
    assert torch.equal(again.flip(0), codes)


def test_fitted_on_files_it_is_saved_and_read(tmp_path):
    """The same seed finds the same centroids, another one others."""
    rows = []
    for number in range(6):
        torch.manual_seed(number)
        rows.append({"wav": str(tmp_path / f"{number}.wav")})
        audio_io.save(rows[-1]["wav"], 0.1 * torch.randn(1, 16000), 16000)
    first, again, other = (
        KMeansTokens(phonemes, groups=4, clusters=3).fit(rows, seed)
        for seed in (1, 1, 2)
    )
    assert torch.equal(first.centroids, again.centroids)
    assert not torch.equal(first.centroids, other.centroids)
    path = tmp_path / "tokens.safetensors"
    first.save(path)
    read = KMeansTokens(phonemes, source=path)
    wav = torch.randn(1, 8000)
    assert torch.equal(read(wav)[0], first(wav)[0])
    assert module_fingerprint(read) == module_fingerprint(first)
    assert (read.codes, read.feature_size) == (3, 4)


def test_a_kmeans_that_does_not_fit_is_refused(tmp_path):
    """Not fitted, of another encoder, damaged, not there, with odd parts."""
    path = tmp_path / "tokens.safetensors"
    with pytest.raises(ValueError, match="is not fitted"):
        KMeansTokens(phonemes)(torch.rand(1, 8000))
    with pytest.raises(FileNotFoundError, match="there is no K-means"):
        KMeansTokens(phonemes, source=path)
    with pytest.raises(ValueError, match="cut into kmeans_groups .3."):
        KMeansTokens(phonemes, groups=3)
    tokens = KMeansTokens(phonemes, clusters=64)
    with pytest.raises(ValueError, match="7 frames for 64 clusters"):
        tokens.fit_frames(torch.rand(7, 16), seed=0)
    with pytest.raises(ValueError, match="0 frames for 64 clusters"):
        tokens.fit([], seed=0)
    kmeans().save(path)
    with pytest.raises(ValueError, match="made from another encoder"):
        KMeansTokens(lambda: SincNetEncoder(hidden_size=8), source=path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="tokens.safetensors is damaged"):
        KMeansTokens(phonemes, source=path)


def test_a_kmeans_on_random_weights_hears_nothing(tmp_path):
    """Its codes are refused as the features of that encoder would be."""
    assert kmeans().untrained
    with pytest.raises(ValueError, match="hears nothing"):
        Stored(kmeans(), "cpu", tmp_path, dtype="int16")


def test_codes_are_stored_as_whole_numbers(checkpoint, tmp_path):
    """Also those above 255; each is what the tokeniser says."""
    tokens, path = VQWav2Vec(checkpoint[0]), str(tmp_path / "a.wav")
    audio_io.save(path, 0.1 * torch.randn(1, 16000), 16000)
    stored = FeatureStore(tmp_path, tokens, dtype="int16").load([path])
    codes, lengths = stored.batch([0])
    wav, _ = audio_io.load(path)
    assert codes.dtype == torch.int64 and codes.max() > 255
    assert torch.equal(codes, tokens(wav)[0])
    tokens.codes = 2**15
    FeatureStore(tmp_path, tokens, dtype="int16")
    tokens.codes += 1
    with pytest.raises(ValueError, match="32769 codes are too many for int16"):
        FeatureStore(tmp_path, tokens, dtype="int16")
    with pytest.raises(ValueError, match="codes cannot be stored as float16"):
        FeatureStore(tmp_path, tokens, dtype="float16")
    with pytest.raises(ValueError, match="features cannot be stored as int16"):
        FeatureStore(tmp_path, phonemes(), dtype="int16")


def test_the_level_of_an_encoder_is_part_of_what_is_stored(tmp_path):
    """Phonemes are never read in the place of words."""
    words = SincNetEncoder(hidden_size=8)
    words.load_state_dict(phonemes().state_dict())
    folders = {
        FeatureStore(tmp_path, encoder).folder
        for encoder in (words, phonemes())
    }
    assert len(folders) == 2
    wav = torch.rand(1, 16000)
    assert words(wav)[0].shape[1] == 7 and phonemes()(wav)[0].shape[1] == 25
    with pytest.raises(ValueError, match="level 'syllable'"):
        SincNetEncoder(level="syllable")
