"""Alignments: which class at which frame, through crops and speeds."""

import pytest
import torch
from speechbrain.augment.time_domain import SpeedPerturb

from slu_kd_lobes.data.alignments import (
    PHONES,
    SILENCE,
    RandomExcerpt,
    frame_targets,
    frequent_words,
    label_track,
    pack_alignment,
    phone_name,
    unpack_alignment,
    word_name,
)
from slu_kd_lobes.data.augment import RandomChannel

RATE = 16000
STEP = 160  # samples of a track step


def test_phones_are_39_without_stress_and_three_silences():
    assert len(PHONES) == len(set(PHONES)) == 42
    assert {"sil", "sp", "spn", "AA", "ZH"} < set(PHONES)
    assert not any(phone[-1].isdigit() for phone in PHONES)


@pytest.mark.parametrize(
    "label, name",
    [
        ("AH0", "AH"),
        ("EY1", "EY"),
        ("ER2", "ER"),
        ("sh", "SH"),
        ("SIL", "sil"),
        ("", "sil"),
        ("sp", "sp"),
        ("spn", "spn"),
    ],
)
def test_phone_names(label, name):
    assert phone_name(label) == name
    assert name in PHONES


@pytest.mark.parametrize(
    "label, name",
    [
        ("", SILENCE),
        ("<sil>", SILENCE),
        ("</s>", SILENCE),
        ("<unk>", "<unk>"),
        ("HELLO", "hello"),
        ("read(2)", "read"),
    ],
)
def test_word_names(label, name):
    assert word_name(label) == name


def test_an_alignment_survives_its_text_form():
    intervals = [["", 0.0, 0.48], ["it's", 0.48, 0.7001], ["{b}", 0.71, 1.0]]
    assert unpack_alignment(pack_alignment(intervals)) == intervals
    assert unpack_alignment(pack_alignment([])) == []


def test_label_track_has_a_class_every_10_ms():
    classes = {"a": 0, "b": 1}
    # Gaps and labels without a class are 0: not known. The track ends with
    # the audio, even where the alignment goes on.
    intervals = [["a", 0.01, 0.03], ["?", 0.03, 0.04], ["b", 0.05, 0.09]]
    track = label_track(intervals, classes, duration=0.07)
    assert track.tolist() == [0, 1, 1, 0, 0, 2, 2]


def test_frame_targets_take_the_first_instant_of_a_frame():
    # Class 4 from 0 to 40 ms, class 6 to 90 ms, unknown to 130 ms, class 1.
    track = torch.tensor([5] * 4 + [7] * 5 + [0] * 4 + [2] * 7)
    tracks = torch.stack([track, torch.zeros_like(track)])
    targets = frame_targets(tracks, frames=6, frame_step=0.04)
    # Frames start at 0, 40, 80, 120, 160 and 200 ms; the track ends there.
    assert targets.tolist() == [[4, 6, 6, -1, 1, -1], [-1] * 6]
    words = frame_targets(tracks, frames=2, frame_step=0.16)
    assert words[0].tolist() == [4, 1]


def test_no_frame_is_lost_to_rounding():
    track = torch.arange(1, 4001).unsqueeze(0)
    targets = frame_targets(track, frames=1000, frame_step=0.04)
    assert targets[0].tolist() == list(range(0, 4000, 4))


def test_frame_targets_follow_the_speed():
    track = torch.tensor([[1] * 10 + [2] * 10])  # changes at 100 ms
    # At half speed the change comes at 200 ms, frame 5 of 40 ms; at double
    # speed at 50 ms, between frames 1 and 2, and the end at 100 ms.
    slow = frame_targets(track, frames=11, frame_step=0.04, speed=0.5)
    fast = frame_targets(track, frames=4, frame_step=0.04, speed=2.0)
    assert slow[0].tolist() == [0] * 5 + [1] * 5 + [-1]
    assert fast[0].tolist() == [0, 0, 1, -1]


@pytest.mark.parametrize("percent", [80, 125])
def test_speed_perturbed_audio_and_targets_stay_together(percent):
    boundary = 70  # steps: 0.7 s
    wav = torch.zeros(1, 2 * RATE)
    wav[0, boundary * STEP] = 1.0
    track = torch.ones(1, 200, dtype=torch.long)
    track[0, boundary:] = 2
    played = SpeedPerturb(orig_freq=RATE, speeds=[percent])(wav)
    click = played.abs().argmax().item() / RATE
    assert click == pytest.approx(0.7 * 100 / percent, abs=0.002)
    targets = frame_targets(track, 60, 0.04, speed=percent / 100)
    change = targets[0].tolist().index(1)
    assert 0 <= change * 0.04 - click < 0.04


def clicks_at_boundaries(boundaries, seconds):
    """Waveforms with a click where their tracks change class."""
    wavs = torch.zeros(len(boundaries), seconds * RATE)
    tracks = torch.ones(len(boundaries), seconds * 100, dtype=torch.long)
    for i, boundary in enumerate(boundaries):
        wavs[i, boundary * STEP] = 1.0
        tracks[i, boundary:] = 2
    return wavs, tracks


def test_excerpts_of_audio_and_tracks_are_the_same_part():
    boundaries = [120, 150, 180, 290]
    wavs, tracks = clicks_at_boundaries(boundaries, seconds=3)
    excerpt = RandomExcerpt(mean=1.5, spread=0.5, shortest=0.5)
    seen, lengths, starts = 0, set(), set()
    for seed in range(20):
        torch.manual_seed(seed)
        cut_wavs, cut_lens, cut = excerpt(
            wavs, torch.ones(4), {"phoneme": tracks, "word": 3 * tracks}
        )
        assert cut_wavs.shape[1] == cut["phoneme"].shape[1] * STEP
        assert torch.equal(cut["word"], 3 * cut["phoneme"])
        assert torch.equal(cut_lens, torch.ones(4))
        lengths.add(cut_wavs.shape[1])
        for wav, track, boundary in zip(cut_wavs, cut["phoneme"], boundaries):
            change = (track.diff() == 1).nonzero()
            if len(change):
                place = change.item() + 1
                assert wav.nonzero().item() == place * STEP
                starts.add(boundary - place)
                seen += 1
    assert seen > 20 and len(lengths) > 10 and len(starts) > 10


def test_excerpts_respect_the_length_of_each_utterance():
    wavs, tracks = clicks_at_boundaries([10, 10], seconds=2)
    lens = torch.tensor([1.0, 0.25])  # 2 s and 0.5 s
    wavs[1, RATE // 2 :], tracks[1, 50:] = 0, 0
    excerpt = RandomExcerpt(mean=1.0, spread=0.0)
    for seed in range(10):
        torch.manual_seed(seed)
        cut_wavs, cut_lens, cut = excerpt(wavs, lens, {"word": tracks})
        assert cut_wavs.shape == (2, RATE)
        assert cut_lens.tolist() == [1.0, 0.5]
        # The short one stays whole, and what follows it is nothing.
        assert cut_wavs[1].nonzero().tolist() == [[10 * STEP]]
        assert cut["word"][1].tolist() == [1] * 10 + [2] * 40 + [0] * 50
        assert cut["word"][0].min() > 0


def test_excerpt_lengths_have_the_papers_distribution():
    excerpt = RandomExcerpt(mean=2.25, spread=1.0, shortest=0.5)
    wavs, tracks = torch.zeros(1, 8 * RATE), torch.zeros(1, 800)
    torch.manual_seed(0)
    lengths = torch.tensor(
        [
            excerpt(wavs, torch.ones(1), {"word": tracks})[2]["word"].shape[1]
            for _ in range(400)
        ]
    )
    assert lengths.min() == 50  # 0.5 s
    assert lengths.float().mean() / 100 == pytest.approx(2.25, abs=0.15)
    assert lengths.float().std() / 100 == pytest.approx(1.0, abs=0.15)


def test_frequent_words_rank_by_count_then_by_name(tmp_path):
    path = tmp_path / "train.json"
    path.write_text(
        '{"1": {"transcription": "b a c c"}, "2": {"transcription": "d b"}}'
    )
    assert frequent_words(path, 4) == ["", "b", "c", "a"]
    assert frequent_words(path, 99) == ["", "b", "c", "a", "d"]


def test_random_channel_colours_and_leaves_length_and_time():
    torch.manual_seed(0)
    wavs = torch.randn(4, RATE)
    channel = RandomChannel(max_gain=12.0)
    coloured = channel(wavs)
    assert coloured.shape == wavs.shape
    change = 20 * torch.log10(coloured.std(1) / wavs.std(1))
    assert change.abs().max() < 12  # dB; no frequency gains more
    # Each utterance has a channel of its own.
    ratio = torch.fft.rfft(coloured).abs() / torch.fft.rfft(wavs).abs()
    assert not torch.allclose(ratio[0], ratio[1], rtol=0.1)
    # A click stays where it is, and its echo never reaches the other end.
    click = torch.zeros(1, RATE)
    click[0, -STEP] = 1.0
    played = channel(click)[0]
    assert played.abs().argmax() == RATE - STEP
    assert played[: RATE // 2].abs().max() < 1e-3
