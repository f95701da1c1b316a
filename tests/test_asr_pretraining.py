"""Pre-training of the encoder: objectives, preparation, whole runs, export."""

import hashlib
import importlib.util
import json
import math
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hyperpyyaml import load_hyperpyyaml
from running import forked, seal_checkpoint
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.inference.encoders import WaveformEncoder

from slu_kd_lobes.data.alignments import PHONES, unpack_alignment
from slu_kd_lobes.inference.model_card import public_command
from slu_kd_lobes.losses.asr import (
    LETTERS,
    CTCObjective,
    FrameObjective,
    check_frames,
    ctc_collapse,
)
from slu_kd_lobes.students.sincnet import SincNetEncoder

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "LibriSpeech" / "SincNet-ASR"
READ_SPEECH = ROOT.parent / "shared" / "data" / "read-speech"
RATE = 16000


def load_module(name, path):
    """Imports a script of the recipe, whose folder is no package."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    # The processes that read files look it up by its name.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


prepare = load_module("asr_prepare", RECIPE / "prepare.py")


def logits_of(path, classes, score=20.0):
    """Logits whose best path is the given one, [1, frames, classes]."""
    logits = torch.zeros(1, len(path), classes)
    logits[0, range(len(path)), path] = score
    return logits


# Objectives


def test_frame_loss_is_the_sum_of_two_cross_entropies():
    # 8 steps of phone 3, 4 of phone 5, 4 unknown: frames 3, 3, 5, unknown.
    phones = torch.tensor([[4] * 8 + [6] * 4 + [0] * 4])
    words = torch.tensor([[2] * 16])
    logits = {
        "phoneme": logits_of([3, 4, 5, 7], classes=42, score=1.0),
        "word": torch.zeros(1, 1, 10),
    }
    loss, correct, total = FrameObjective()(
        logits, None, {"phoneme": phones, "word": words}
    )
    right = math.log(math.e + 41) - 1
    wrong = math.log(math.e + 41)
    expected = (2 * right + wrong) / 3 + math.log(10)
    assert loss.item() == pytest.approx(expected, abs=1e-5)
    assert correct == {"phoneme": 2, "word": 0}
    assert total == {"phoneme": 3, "word": 1}


def test_frame_loss_ignores_padding():
    torch.manual_seed(0)
    tracks = {
        name: torch.randint(1, 5, (2, 32)) for name in ("phoneme", "word")
    }
    logits = {"phoneme": torch.rand(2, 8, 42), "word": torch.rand(2, 2, 9)}
    padded_tracks = {
        name: torch.nn.functional.pad(x, (0, 32)) for name, x in tracks.items()
    }
    padded_logits = {
        name: torch.cat([x, 9 * torch.rand_like(x)], 1)
        for name, x in logits.items()
    }
    alone = FrameObjective()(logits, None, tracks)
    padded = FrameObjective()(padded_logits, None, padded_tracks)
    assert alone[0].item() == pytest.approx(padded[0].item(), abs=1e-6)
    assert alone[1:] == padded[1:]


def test_frame_loss_of_nothing_known_is_zero():
    logits = {"phoneme": torch.rand(1, 4, 42), "word": torch.rand(1, 1, 9)}
    nothing = torch.zeros(1, 16, dtype=torch.long)
    loss, _, total = FrameObjective()(
        logits, None, {"phoneme": nothing, "word": nothing}
    )
    assert loss == 0 and total == {"phoneme": 0, "word": 0}


def test_frame_classes():
    classes = FrameObjective.classes(["", "the"])
    assert [classes["phoneme"][phone] for phone in PHONES] == list(range(42))
    assert classes["word"] == {"": 0, "the": 1}


def test_ctc_classes_leave_0_to_the_blank():
    classes = CTCObjective.classes(["", "the", "cat"])
    assert len(LETTERS) == 28
    assert sorted(classes["phoneme"].values()) == list(range(1, 29))
    assert classes["word"] == {"the": 1, "cat": 2}


def test_ctc_collapse():
    assert ctc_collapse([1, 1, 0, 1, 2, 2, 0]) == [1, 1, 2]
    assert ctc_collapse([0, 0]) == []


def ctc(phoneme_logits, phonemes, word_logits=None, words=None, lengths=None):
    """The CTC objective of letters, with words of one sure frame."""
    batch = len(phonemes)
    if words is None:
        words = torch.ones(batch, 1, dtype=torch.long)
        word_logits = logits_of([1], 3, score=100.0).expand(batch, 1, 3)
    if lengths is None:
        lengths = [phoneme_logits.shape[1]] * batch
    return CTCObjective()(
        {"phoneme": phoneme_logits, "word": word_logits},
        {
            "phoneme": torch.tensor(lengths),
            "word": torch.tensor([word_logits.shape[1]] * batch),
        },
        {"phoneme": torch.tensor(phonemes), "word": words},
    )


@pytest.mark.parametrize("labels", [[1, 2, 3], [2, 2], [1, 1, 1, 2], [5]])
def test_frames_suffice_when_the_loss_of_ctc_is_finite(labels):
    """And an utterance that has one less is refused."""
    labels = torch.tensor([labels])
    for frames in range(1, 7):
        loss = torch.nn.functional.ctc_loss(
            torch.zeros(frames, 1, 6).log_softmax(-1),
            labels,
            torch.tensor([frames]),
            torch.tensor([labels.shape[1]]),
        )
        if loss.isfinite():
            check_frames("valid", labels, [frames], "wait")
        else:
            with pytest.raises(ValueError, match="valid: 1 of 1 .*: wait"):
                check_frames("valid", labels, [frames], "wait")


def test_ctc_loss_by_hand():
    # One label in two frames of 4 even classes: 3 of the 16 paths spell it.
    loss, _, total = ctc(torch.zeros(1, 2, 4), [[1]])
    assert loss.item() == pytest.approx(math.log(16 / 3), abs=1e-5)
    assert total == {"phoneme": 1, "word": 1}


@pytest.mark.parametrize(
    "path, correct",
    [
        ([1, 1, 0, 2, 3], 3),  # right
        ([1, 0, 0, 2, 2], 2),  # a deletion
        ([1, 0, 4, 2, 3], 2),  # an insertion
        ([4, 0, 4, 0, 4], 0),  # three substitutions
        ([4, 5, 4, 5, 4], -2),  # and two insertions
    ],
)
def test_ctc_counts_are_labels_less_edits(path, correct):
    _, counted, total = ctc(logits_of(path, classes=6), [[1, 2, 3]])
    assert counted == {"phoneme": correct, "word": 1}
    assert total == {"phoneme": 3, "word": 1}


def test_ctc_ignores_padding_of_frames_and_labels():
    paths = [1, 0, 2, 2, 0, 0, 3, 0], [4, 4, 0, 0, 1, 2, 1, 2]
    logits = torch.cat([logits_of(path, 5, score=1.0) for path in paths])
    loss, correct, total = ctc(logits, [[1, 2, 3], [4, 0, 0]], lengths=[8, 4])
    first = ctc(logits[:1], [[1, 2, 3]])
    second = ctc(logits[1:, :4], [[4]])
    assert correct["phoneme"] == total["phoneme"] == 4
    expected = (3 * first[0] + second[0]).item() / 4
    assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_ctc_passes_over_utterances_with_more_labels_than_frames():
    logits = torch.zeros(1, 2, 5, requires_grad=True)
    loss, _, _ = ctc(logits, [[1, 2, 3]])
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-5)
    assert logits.grad.abs().max() == 0


# Preparation


def textgrid(tiers, seconds):
    """A TextGrid in Praat's long format."""
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {seconds}",
        "tiers? <exists>",
        f"size = {len(tiers)}",
        "item []:",
    ]
    for i, (name, intervals) in enumerate(tiers.items(), 1):
        lines += [
            f"    item [{i}]:",
            '        class = "IntervalTier"',
            f'        name = "{name}"',
            "        xmin = 0",
            f"        xmax = {seconds}",
            f"        intervals: size = {len(intervals)}",
        ]
        for j, (label, start, end) in enumerate(intervals, 1):
            lines += [
                f"        intervals [{j}]:",
                f"            xmin = {start}",
                f"            xmax = {end}",
                f'            text = "{label}"',
            ]
    return "\n".join(lines) + "\n"


# Phones of three words and the tones that they are played by, in Hz.
WORDS = {"OH": ["OW1"], "SHE": ["SH", "IY1"], "I'M": ["AY1", "M"]}
TONES = {"OW1": 300, "SH": 3000, "IY1": 600, "AY1": 1000, "M": 200}


class TinyLibriSpeech:
    """A few utterances of tones in LibriSpeech's layout, with TextGrids.

    Arguments
    ---------
    folder : Path
        Where to make it.
    parts : dict
        Number of utterances of each part.
    """

    def __init__(self, folder, parts):
        self.data = folder / "LibriSpeech"
        self.alignments = folder / "alignments"
        self.rng = np.random.default_rng(0)
        for part, utterances in parts.items():
            lines = []
            for number in range(utterances):
                key = f"1-2-{number:04}"
                words = self.rng.choice(list(WORDS), size=3)
                self.add(Path(part) / "1" / "2" / key, words)
                lines.append(f"{key} {' '.join(words)}")
            path = self.data / part / "1" / "2" / "1-2.trans.txt"
            path.write_text("\n".join(lines) + "\n")

    def add(self, path, words):
        """Writes the audio and the TextGrid of an utterance."""
        tiers = {"words": [("", 0, 0.1)], "phones": [("sil", 0, 0.1)]}
        pieces, end = [np.zeros(RATE // 10)], 0.1
        for word in words:
            start = end
            for phone in WORDS[word]:
                length = round(self.rng.uniform(0.15, 0.25), 2)
                times = np.arange(round(length * RATE)) / RATE
                pieces.append(0.3 * np.sin(2 * np.pi * TONES[phone] * times))
                after = round(end + length, 2)
                tiers["phones"].append((phone, end, after))
                end = after
            tiers["words"].append((word.lower(), start, end))
        tiers["phones"].append(("sp", end, round(end + 0.1, 2)))
        tiers["words"].append(("", end, round(end + 0.1, 2)))
        wav = np.concatenate([*pieces, np.zeros(RATE // 10)])
        wav += 0.01 * self.rng.standard_normal(len(wav))
        for root in (self.data, self.alignments):
            (root / path.parent).mkdir(parents=True, exist_ok=True)
        soundfile.write(self.data / f"{path}.flac", wav, RATE)
        self.grid(path).write_text(textgrid(tiers, len(wav) / RATE))

    def grid(self, path):
        """Place of the TextGrid of an utterance."""
        return self.alignments / f"{path}.TextGrid"

    def prepare(self, save, **changes):
        """Prepares one part for training and another for validation."""
        arguments = {
            "data_folder": str(self.data),
            "manifests": {
                name: str(save / f"{name}.json") for name in ("train", "valid")
            },
            "splits": {"train": ["train-clean-100"], "valid": ["dev-clean"]},
            "alignment_folder": str(self.alignments),
        }
        prepare.prepare_speech(**{**arguments, **changes})
        return {
            name: json.loads((save / f"{name}.json").read_text())
            for name in ("train", "valid")
        }


@pytest.fixture
def tiny(tmp_path):
    return TinyLibriSpeech(tmp_path, {"train-clean-100": 3, "dev-clean": 2})


FIRST = Path("train-clean-100/1/2/1-2-0000")


def test_librispeech_manifest(tiny, tmp_path):
    tiny.grid(FIRST).write_text(
        textgrid(
            {
                "words": [
                    ("", 0, 0.1),
                    ("HELLO", 0.1, 0.3),
                    ("<unk>", 0.3, 0.4),
                ],
                "phones": [
                    ("sil", 0, 0.1),
                    ("HH", 0.1, 0.15),
                    ("EH0", 0.15, 0.15),  # aligners do write empty intervals
                    ("OW1", 0.15, 0.3),
                    ("spn", 0.3, 0.4),
                ],
            },
            0.4,
        )
    )
    manifests = tiny.prepare(tmp_path / "save")
    assert list(manifests["train"]) == ["1-2-0000", "1-2-0001", "1-2-0002"]
    assert len(manifests["valid"]) == 2
    row = manifests["train"]["1-2-0000"]
    assert row["wav"] == f"{{data_root}}/{FIRST}.flac"
    info = soundfile.info(tiny.data / f"{FIRST}.flac")
    assert row["duration"] == info.frames / RATE
    assert set(row["transcription"].split()) <= {"oh", "she", "i'm"}
    assert unpack_alignment(row["words"]) == [
        ["", 0, 0.1],
        ["hello", 0.1, 0.3],
        ["<unk>", 0.3, 0.4],
    ]
    assert unpack_alignment(row["phones"]) == [
        ["sil", 0, 0.1],
        ["HH", 0.1, 0.15],
        ["EH", 0.15, 0.15],
        ["OW", 0.15, 0.3],
        ["spn", 0.3, 0.4],
    ]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_textgrid_encodings(tiny, tmp_path, encoding):
    before = tiny.prepare(tmp_path / "save")
    path = tiny.grid(FIRST)
    path.write_text(path.read_text(), encoding=encoding)
    assert tiny.prepare(tmp_path / "save") == before


def test_ctc_needs_no_alignments(tiny, tmp_path):
    manifests = tiny.prepare(
        tmp_path / "save", alignment_folder=None, aligned=False
    )
    assert set(manifests["train"]["1-2-0000"]) == {
        "wav",
        "duration",
        "transcription",
    }


def test_a_second_preparation_has_nothing_to_do(tiny, tmp_path, monkeypatch):
    save = tmp_path / "save"
    before = tiny.prepare(save)
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "parallel_map", None)  # reads the files
        assert tiny.prepare(save) == before
    # A damaged manifest, other audio or another alignment: all again.
    (save / "train.json").write_text("{}")
    assert tiny.prepare(save) == before
    soundfile.write(tiny.data / f"{FIRST}.flac", np.zeros(2 * RATE), RATE)
    assert tiny.prepare(save)["train"]["1-2-0000"]["duration"] == 2.0


def test_preparation_forks_no_process(tiny, tmp_path, monkeypatch):
    def fork():
        raise AssertionError("a fork inherits the locks of other threads")

    monkeypatch.setattr(os, "fork", fork)
    assert tiny.prepare(tmp_path / "save")


def without_tier(tiny):
    path = tiny.grid(FIRST)
    path.write_text(path.read_text().replace('"phones"', '"letters"'))
    return ValueError, "1-2-0000.TextGrid has no tier 'phones' but"


def without_textgrid(tiny):
    tiny.grid(FIRST).unlink()
    return FileNotFoundError, "1 of the 3 utterances of train-clean-100 have no"


def with_damaged_textgrid(tiny):
    path = tiny.grid(FIRST)
    path.write_text(path.read_text()[:200])
    return ValueError, "1-2-0000.TextGrid cannot be read"


def with_long_alignment(tiny):
    soundfile.write(tiny.data / f"{FIRST}.flac", np.zeros(800), RATE)
    return ValueError, "1-2-0000.TextGrid ends at .* and the audio at 0.05 s"


def with_backward_alignment(tiny):
    path = tiny.grid(FIRST)
    path.write_text(path.read_text().replace("xmin = 0.1\n", "xmin = 9\n"))
    return ValueError, "1-2-0000.TextGrid runs backwards"


def with_damaged_audio(tiny):
    (tiny.data / f"{FIRST}.flac").write_bytes(b"fLaC and no more")
    return ValueError, "1-2-0000.flac cannot be read"


def without_audio(tiny):
    (tiny.data / f"{FIRST}.flac").unlink()
    return ValueError, "1-2-0000.flac cannot be read"


def with_empty_audio(tiny):
    path = tiny.data / f"{FIRST}.flac"
    soundfile.write(path, np.zeros(0), RATE, format="WAV")
    return ValueError, "1-2-0000.flac has no samples"


def without_transcripts(tiny):
    for path in tiny.data.glob("dev-clean/*/*/*.txt"):
        path.unlink()
    return FileNotFoundError, "dev-clean holds no transcripts"


@pytest.mark.parametrize(
    "spoil",
    [
        without_tier,
        without_textgrid,
        with_damaged_textgrid,
        with_long_alignment,
        with_backward_alignment,
        with_damaged_audio,
        without_audio,
        with_empty_audio,
        without_transcripts,
    ],
)
def test_a_bad_file_is_one_sentence_and_writes_nothing(tiny, tmp_path, spoil):
    error, message = spoil(tiny)
    with pytest.raises(error, match=message) as caught:
        tiny.prepare(tmp_path / "save")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "save").exists()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"data_folder": "/no/corpus"}, "folder /no/corpus does not exist"),
        ({"alignment_folder": "/no/grids"}, "/no/grids does not exist"),
        (
            {"alignment_folder": None},
            "give --alignment_folder, or train by CTC",
        ),
        (
            {"splits": {"train": ["train"], "valid": ["dev-clean"]}},
            "neither the folder train of a corpus nor the file train.jsonl "
            "or train.csv, "
            r"but \['dev-clean', 'train-clean-100'\]",
        ),
        (
            {"splits": {"train": ["dev-clean"] * 2, "valid": ["dev-clean"]}},
            "the train split has the utterance 1-2-0000 twice",
        ),
    ],
)
def test_a_bad_argument_is_one_sentence(tiny, tmp_path, change, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        tiny.prepare(tmp_path / "save", **change)
    assert not (tmp_path / "save").exists()


def test_a_missing_library_is_one_sentence(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="praatio: pip install -r extra_req"):
        tiny.prepare(tmp_path / "save")


def test_the_few_utterances_that_were_not_aligned_are_left_out(
    tiny, tmp_path, monkeypatch
):
    tiny.grid(FIRST).unlink()
    monkeypatch.setattr(prepare, "UNALIGNED_SHARE", 0.5)
    assert list(tiny.prepare(tmp_path / "save")["train"]) == [
        "1-2-0001",
        "1-2-0002",
    ]


ROW = {
    "path": "wavs/{a}.wav",
    "transcription": "On and on",
    "duration": 0.5,
    "alignment": [
        ["<sil>", 0.0, 0.1, [["SIL", 0.0, 0.1]]],
        ["on(2)", 0.1, 0.2, [["AA", 0.1, 0.1], ["N", 0.2, 0.1]]],
    ],
}


def prepare_json_lines(folder, rows, aligned=True):
    """Prepares a folder of JSON lines with half a second of silence."""
    (folder / "wavs").mkdir(exist_ok=True)
    soundfile.write(folder / "wavs" / "{a}.wav", np.zeros(RATE // 2), RATE)
    for name in ("train", "valid"):
        text = "\n".join(map(json.dumps, rows))
        (folder / f"{name}.jsonl").write_text(text)
    manifests = {n: folder / "save" / f"{n}.json" for n in ("train", "valid")}
    prepare.prepare_speech(
        folder,
        manifests,
        {"train": ["train"], "valid": ["valid"]},
        aligned=aligned,
    )
    return manifests


def test_json_lines_manifest(tmp_path):
    manifests = prepare_json_lines(tmp_path, [ROW])
    data = DynamicItemDataset.from_json(
        manifests["train"], replacements={"data_root": str(tmp_path)}
    )
    data.set_output_keys(["id", "wav", "transcription", "words", "phones"])
    item = data[0]
    assert item["id"] == "wavs/{a}"
    assert item["wav"] == f"{tmp_path}/wavs/{{a}}.wav"
    assert item["transcription"] == "on and on"
    assert unpack_alignment(item["words"]) == [["", 0, 0.1], ["on", 0.1, 0.3]]
    assert unpack_alignment(item["phones"]) == [
        ["sil", 0, 0.1],
        ["AA", 0.1, 0.2],
        ["N", 0.2, 0.3],
    ]


@pytest.mark.parametrize(
    "row, message",
    [
        (
            {**ROW, "alignment": [["a", 0]]},
            "train.jsonl, line 1 cannot be read",
        ),
        ({**ROW, "duration": 3.0}, "is 0.50 s long and its row says 3.00 s"),
        ({"path": "a.wav"}, "line 1 has no 'alignment': add it .hparams/ctc"),
        ([], "train.jsonl, line 1 cannot be read"),
    ],
)
def test_a_bad_json_line_is_one_sentence(tmp_path, row, message):
    with pytest.raises(ValueError, match=message):
        prepare_json_lines(tmp_path, [row])
    assert not (tmp_path / "save").exists()


def test_json_lines_for_ctc_need_a_path_and_a_transcription(tmp_path):
    row = {"path": ROW["path"], "transcription": "On"}
    manifests = prepare_json_lines(tmp_path, [row], aligned=False)
    assert json.loads(manifests["valid"].read_text())["wavs/{a}"] == {
        "wav": "{data_root}/wavs/{{a}}.wav",
        "duration": 0.5,
        "transcription": "on",
    }


@pytest.mark.parametrize("mark", "\x85\u2028\u2029\xa0")
def test_only_a_line_feed_ends_a_json_line(tmp_path, mark):
    """JSON may hold what Python takes for the end of a line."""
    row = {"path": ROW["path"], "transcription": f"on{mark}and on"}
    (tmp_path / "wavs").mkdir()
    soundfile.write(tmp_path / ROW["path"], np.zeros(RATE // 2), RATE)
    line = json.dumps(row, ensure_ascii=False)
    path = tmp_path / "train.jsonl"
    path.write_text(line + "\r\n", encoding="utf-8", newline="")
    (found,) = prepare.list_part(tmp_path, "train", aligned=False)
    assert found.transcription == row["transcription"]


def test_a_csv_file_is_listed_as_json_lines_are(tmp_path):
    """With a byte order mark and other columns; what lacks is one sentence."""
    path = tmp_path / "train.csv"
    path.write_text(
        'path,speakerId,transcription,duration\na/b.wav,x,"on, and on",\n',
        encoding="utf-8-sig",
    )
    (found,) = prepare.list_part(tmp_path, "train", aligned=False)
    assert found.id == "a/b" and found.transcription == "on, and on"
    assert found.duration is None
    with pytest.raises(ValueError, match="line 2 has no 'alignment'"):
        prepare.list_part(tmp_path, "train")
    path.write_text("path,transcription\na/b.wav\n")
    with pytest.raises(ValueError, match="line 2 cannot be read"):
        prepare.list_part(tmp_path, "train", aligned=False)


def test_json_lines_may_name_audio_elsewhere(tmp_path):
    audio = tmp_path / "elsewhere.wav"
    soundfile.write(audio, np.zeros(RATE // 2), RATE)
    manifests = prepare_json_lines(tmp_path, [{**ROW, "path": str(audio)}])
    (row,) = json.loads(manifests["train"].read_text()).values()
    assert row["wav"] == str(audio)


def test_names_of_two_corpora_may_be_alike(tmp_path):
    """Each reads its own audio, from parts that may be elsewhere."""
    (tmp_path / "wavs").mkdir()
    parts = tmp_path / "wavs" / "train"
    rows = [{"path": f"{n}.wav", "transcription": n} for n in "ba"]
    parts.with_suffix(".jsonl").write_text("\n".join(map(json.dumps, rows)))
    for folder, seconds in ((tmp_path / "{1}", 1), (tmp_path / "2", 2)):
        folder.mkdir()
        for row in rows:
            wav = np.zeros(seconds * RATE)
            soundfile.write(folder / row["path"], wav, RATE)
        manifests = {n: folder / f"{n}.json" for n in ("train", "valid")}
        splits = {"train": [str(parts)], "valid": []}
        prepare.prepare_speech(folder, manifests, splits, aligned=False)
        found = prepare.read_speech(manifests["train"], str(folder), 2)
        assert found == [
            {
                "wav": f"{folder}/{name}.wav",
                "duration": seconds,
                "transcription": name,
            }
            for name in "ab"
        ]
        assert prepare.read_speech(manifests["valid"], str(folder), 2) == []
    assert prepare.read_speech(manifests["train"], str(folder), 1.9) == []


def test_a_part_of_librispeech_may_be_elsewhere(tiny, tmp_path):
    """By its absolute path; its audio is found there."""
    (tmp_path / "corpus").mkdir()
    splits = {"train": [str(tiny.data / "train-clean-100")], "valid": []}
    changes = {"data_folder": tmp_path / "corpus", "aligned": False}
    rows = tiny.prepare(tmp_path / "save", splits=splits, **changes)["train"]
    assert rows["1-2-0000"]["wav"] == str(tiny.data / f"{FIRST}.flac")


@pytest.mark.skipif(not READ_SPEECH.is_dir(), reason="no read-speech here")
def test_read_speech(tmp_path):
    manifests = {n: tmp_path / f"{n}.json" for n in ("train", "valid")}
    prepare.prepare_speech(
        READ_SPEECH, manifests, {"train": ["train"], "valid": ["valid"]}
    )
    rows = {n: json.loads(p.read_text()) for n, p in manifests.items()}
    assert {n: len(r) for n, r in rows.items()} == {"train": 3325, "valid": 308}
    for row in rows["valid"].values():
        phones = unpack_alignment(row["phones"])
        assert {label for label, _, _ in phones} <= set(PHONES)
        spoken = [w for w, _, _ in unpack_alignment(row["words"]) if w]
        assert spoken == row["transcription"].split()


# Whole runs


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """A tiny LibriSpeech that the runs of this file share."""
    folder = tmp_path_factory.mktemp("speech")
    return TinyLibriSpeech(folder, {"train-clean-100": 10, "dev-clean": 4})


@pytest.fixture(scope="module")
def train():
    """The training script as a module."""
    others = sys.modules.get("prepare")
    sys.modules["prepare"] = prepare
    try:
        return load_module("asr_train", RECIPE / "train.py")
    finally:
        sys.modules.pop("prepare")
        if others is not None:
            sys.modules["prepare"] = others


@pytest.fixture(autouse=True)
def same_excepthook(monkeypatch):
    """SpeechBrain replaces the hook at the start of an experiment."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


def arguments(speech, output, hparams="frames", **changes):
    """Command line of a small run; its output folder is the given one."""
    options = {
        "output_folder": output,
        "data_folder": speech.data,
        "alignment_folder": speech.alignments,
        "splits": "{train: [train-clean-100], valid: [dev-clean]}",
        "num_words": 8,
        "number_of_epochs": 2,
        "batch_size": 4,
        "device": "cpu",
        **changes,
    }
    if hparams == "ctc":
        del options["alignment_folder"]
    lines = [f"--{key}={value}" for key, value in options.items()]
    return [str(RECIPE / "hparams" / f"{hparams}.yaml"), *lines]


def validation_lines(output):
    """What the log says of each epoch."""
    return (output / "train_log.txt").read_text().splitlines()


def last_weights(output):
    """The encoder of the newest checkpoint."""
    newest = max(
        output.glob("save/CKPT*"), key=lambda path: path.stat().st_mtime
    )
    return torch.load(newest / "encoder.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def frames_run(speech, train, tmp_path_factory):
    """A run for frame targets, with augmentation, that nothing interrupts."""
    output = tmp_path_factory.mktemp("frames") / "run"
    train.main(arguments(speech, output, augment=True))
    return output


def test_the_targets_of_a_run_are_those_of_the_alignment(
    speech, train, frames_run
):
    hparams = {
        "train_manifest": frames_run / "save" / "train.json",
        "valid_manifest": frames_run / "save" / "valid.json",
        "data_folder": str(speech.data),
        "num_phones": 42,
        "num_words": 8,
        "utterances_in_memory": 0,
        "sample_rate": RATE,
        "loss": FrameObjective(),
    }
    item = train.dataio_prep(hparams)["train"][0]
    text = speech.grid(FIRST).read_text()
    assert item["phoneme_targets"][0] == 1 + PHONES.index("sil")
    assert item["phoneme_targets"][-1] == 1 + PHONES.index("sp")
    assert item["word_targets"][0] == 1 + 0  # silence is the first word
    labels = re.findall(r'xmax = ([\d.]+)\s+text = "([A-Z]+)1?"', text)
    end, phone = labels[0]
    last = round(float(end) * 100) - 1
    assert item["phoneme_targets"][last] == 1 + PHONES.index(phone)
    assert len(item["phoneme_targets"]) == round(len(item["sig"]) / 160)


def test_a_run_learns_and_exports(frames_run):
    lines = validation_lines(frames_run)
    assert [line.split(",")[0] for line in lines] == ["epoch: 1", "epoch: 2"]
    losses = [float(re.search(r"valid loss: (\S+),", x)[1]) for x in lines]
    assert losses[1] < losses[0]
    assert sorted(path.name for path in (frames_run / "encoder").iterdir()) == [
        "README.md",
        "encoder.ckpt",
        "hyperparams.yaml",
    ]


def test_the_model_card_tells_of_the_run(frames_run):
    (checkpoint,) = frames_run.glob("save/CKPT*")
    meta = (checkpoint / "CKPT.yaml").read_text()
    accuracy = {
        level: float(
            re.search(rf"^valid_{level}_accuracy: (\S+)$", meta, re.M)[1]
        )
        for level in ("phoneme", "word")
    }
    weights = (frames_run / "encoder" / "encoder.ckpt").read_bytes()
    card = (frames_run / "encoder" / "README.md").read_text()
    for text in (
        "Seed 1234; 2 epochs, of which epoch 2 is",
        "1,077,544 parameters",
        "| train (train-clean-100) | 10 | 0.00 |",
        f"40 ms frames | {accuracy['phoneme']:.2f} |",
        f"160 ms frames | {accuracy['word']:.2f} |",
        "speechbrain 1.",
        hashlib.sha256(weights).hexdigest(),
        "--data_folder=/path/to/LibriSpeech",
    ):
        assert text in card
    assert str(frames_run.parent) not in card  # no folder of this machine


def test_the_best_epoch_is_exported_not_the_last(
    speech, train, frames_run, tmp_path
):
    run = tmp_path / "run"
    shutil.copytree(frames_run, run)
    (last,) = run.glob("save/CKPT*")
    best = last.with_name("CKPT+2000-01-01+00-00-00+00")
    shutil.copytree(last, best)
    meta = (last / "CKPT.yaml").read_text()
    meta = re.sub("word_accuracy: .*", "word_accuracy: 98.7", meta)
    meta = re.sub("unixtime: .*", "unixtime: 1.0", meta)
    (best / "CKPT.yaml").write_text(meta)
    (best / "counter.ckpt").write_text("1")
    state = torch.load(best / "encoder.ckpt", weights_only=True)
    state = {name: x + 0.5 for name, x in state.items()}
    torch.save(state, best / "encoder.ckpt")
    seal_checkpoint(best)
    train.main(
        arguments(speech, run, augment=True, data_description="Only tones.")
    )
    exported = torch.load(run / "encoder" / "encoder.ckpt", weights_only=True)
    assert exported.keys() == state.keys()
    assert all(torch.equal(exported[name], state[name]) for name in state)
    card = (run / "encoder" / "README.md").read_text()
    assert "of which epoch 1 is" in card
    assert "160 ms frames | 98.70 |" in card
    assert "\nOnly tones.\n" in card


def test_the_export_loads_through_speechbrain(frames_run, tmp_path):
    folder = frames_run / "encoder"
    reference = SincNetEncoder().eval()
    state = torch.load(folder / "encoder.ckpt", weights_only=True)
    reference.load_state_dict(state)
    wavs, lens = torch.rand(2, RATE), torch.tensor([1.0, 0.7])
    expected, steps = reference(wavs, lens)

    hparams = load_hyperpyyaml((folder / "hyperparams.yaml").read_text())
    hparams["pretrainer"].collect_files(default_source=str(folder))
    hparams["pretrainer"].load_collected()
    features, lengths = hparams["encoder"].eval()(wavs, lens)
    assert torch.equal(features, expected) and torch.equal(lengths, steps)

    model = WaveformEncoder.from_hparams(
        source=str(folder), savedir=str(tmp_path / "model")
    )
    features, lengths = model.encode_batch(wavs, lens)
    # Frozen GRUs have a kernel of their own.
    assert torch.allclose(features, expected, atol=1e-5)
    assert torch.equal(lengths, steps)


def test_a_finished_run_only_exports_again(speech, train, frames_run):
    folder = frames_run / "encoder"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    lines = validation_lines(frames_run)
    (folder / "encoder.ckpt").unlink()
    train.main(arguments(speech, frames_run, augment=True))
    assert validation_lines(frames_run) == lines
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


KILLED_RUN = """
import os, signal, sys
import torch
torch.set_num_threads({threads})
sys.path.insert(0, {recipe!r})
import train
fit_batch = train.ASRPretraining.fit_batch
def killed_in_epoch_2(brain, batch):
    if brain.hparams.epoch_counter.current == 2 and brain.step == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return fit_batch(brain, batch)
train.ASRPretraining.fit_batch = killed_in_epoch_2
train.main(sys.argv[1:])
"""


def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    speech, train, frames_run, tmp_path
):
    command = arguments(speech, tmp_path, augment=True)
    script = tmp_path / "killed.py"
    facts = {"recipe": str(RECIPE), "threads": torch.get_num_threads()}
    script.write_text(KILLED_RUN.format(**facts))
    status, printed = forked([script, *command], ROOT)
    assert status == -signal.SIGKILL, printed
    assert len(validation_lines(tmp_path)) == 1
    # What a kill leaves while a checkpoint is written.
    unfinished = tmp_path / "save" / "CKPT+9999-01-01+00-00-00+00"
    unfinished.mkdir()
    (unfinished / "CKPT.yaml.unfinished").write_text("end-of-epoch: true\n")
    (unfinished / "encoder.ckpt").write_bytes(b"PK")
    train.main(command)
    assert validation_lines(tmp_path) == validation_lines(frames_run)
    assert not unfinished.exists()
    resumed, whole = last_weights(tmp_path), last_weights(frames_run)
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)


def test_more_epochs_end_like_a_run_that_had_them(
    speech, train, frames_run, tmp_path
):
    """Unless the learning rates of the first ones would have been others."""
    train.main(arguments(speech, tmp_path, augment=True, number_of_epochs=1))
    lr = {"augment": True, "final_lr": 0.0001}
    with pytest.raises(SystemExit, match="error: .*different: .*final_lr"):
        train.main(arguments(speech, tmp_path, **lr))
    train.main(arguments(speech, tmp_path, augment=True))
    resumed, whole = last_weights(tmp_path), last_weights(frames_run)
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)
    assert validation_lines(tmp_path) == validation_lines(frames_run)


def test_a_schedule_and_another_start_are_told(speech, train, tmp_path):
    """Neither goes on with what is there."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        state = SincNetEncoder().state_dict()
        torch.save(state, tmp_path / name / "encoder.ckpt")
    shutil.copytree(tmp_path / "one", tmp_path / "moved")
    changes = {"final_lr": 0.0001, "start_from": tmp_path / "one"}
    output = tmp_path / "run"
    train.main(arguments(speech, output, **changes))
    with pytest.raises(SystemExit, match="and lr_annealing would have been an"):
        train.main(arguments(speech, output, number_of_epochs=3, **changes))
    changes["start_from"] = tmp_path / "moved"
    train.main(arguments(speech, output, **changes))
    changes["start_from"] = tmp_path / "two"
    with pytest.raises(SystemExit, match="was made from another start_from: g"):
        train.main(arguments(speech, output, **changes))


def test_ctc_run(speech, train, tmp_path):
    train.main(arguments(speech, tmp_path, hparams="ctc"))
    saved = load_hyperpyyaml((tmp_path / "hyperparams.yaml").read_text())
    assert isinstance(saved["loss"], CTCObjective)
    assert saved["excerpt"] is None
    assert saved["phoneme_head"].w.weight.shape == (29, 256)
    lines = validation_lines(tmp_path)
    losses = [float(re.search(r"valid loss: (\S+),", x)[1]) for x in lines]
    assert len(losses) == 2 and losses[1] < losses[0]
    card = (tmp_path / "encoder" / "README.md").read_text()
    assert "letters, 100 - error rate" in card


def test_debug_run_leaves_the_exported_encoder_alone(speech, train, tmp_path):
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "encoder.ckpt").write_bytes(b"dear")
    train.main([*arguments(speech, tmp_path), "--debug"])
    assert (tmp_path / "encoder" / "encoder.ckpt").read_bytes() == b"dear"
    assert not list(tmp_path.glob("save/CKPT*"))


@pytest.mark.parametrize(
    "hparams, changes, message",
    [
        ("frames", {"data_folder": "/no/corpus"}, "/no/corpus does not exist"),
        ("frames", {"objective": "words"}, "not one of frames, ctc"),
        ("ctc", {"num_phones": 20}, "num_phones is 20, and there are 29"),
        ("frames", {"num_epochs": 3}, "there is no key 'num_epochs'"),
        ("frames", {"number_of_epochs": 0}, "'number_of_epochs' must be a who"),
        ("ctc", {"device": "cuda:77"}, "device 'cuda:77' cannot be used here"),
        ("ctc", {"lr": ".nan"}, "'lr' must be a number from 1e-12 to 1000"),
    ],
)
def test_a_bad_configuration_is_one_sentence(
    speech, train, tmp_path, hparams, changes, message
):
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        train.main(arguments(speech, tmp_path, hparams, **changes))


def test_public_command_hides_folders():
    shown = public_command(
        [
            "train.py",
            "hparams/frames.yaml",
            "--data_folder=/home/ann/my.speech/",
            "--lr=0.01",
            "--splits={train: [a], valid: [/x/b]}",
        ]
    )
    assert shown.split(" \\\n    ") == [
        "python train.py",
        "hparams/frames.yaml",
        "--data_folder=/path/to/my.speech",
        "--lr=0.01",
        "'--splits={train: [a], valid: [/path/to/b]}'",
    ]
