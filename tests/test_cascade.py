"""A recogniser, then a reader: the baseline of the end-to-end student."""

import json

import pytest
import torch
from running import CORPUS, error_of_predictions, run

from slu_kd_lobes.data.audio import read_waveform
from slu_kd_lobes.data.transcripts import normalise_transcript
from slu_kd_lobes.inference.recognisers import (
    NearestTranscript,
    SpeechBrainRecogniser,
    TranscriptStore,
    TransformerRecogniser,
)
from slu_kd_lobes.utils.files import read_csv

SLICES = {"action": slice(0, 2), "object": slice(2, 5)}


class Speller:
    """Writes how many samples it heard."""

    sample_rate = 16000
    fingerprint = "f" * 64

    def __init__(self):
        self.heard = 0

    def __call__(self, wavs):
        self.heard += len(wavs)
        return [f"{len(wav)} samples" for wav in wavs]


def test_recognisers_write_a_text_for_each_utterance(recogniser, asr):
    wavs = [torch.randn(16000), torch.randn(9000)]
    for model in (
        TransformerRecogniser(str(recogniser)),
        SpeechBrainRecogniser(str(asr), "EncoderASR"),
    ):
        texts = model(wavs)
        assert len(texts) == 2 and all(isinstance(x, str) for x in texts)
        assert texts == model(wavs)
        assert len(model.fingerprint) == 64


def test_real_whisper_hears_a_batch(shared):
    """Its tokenizer has no token to pad with; what is heard is as alone."""
    rows = read_csv(CORPUS / "data" / "test_data.csv")[:2]
    wavs = [read_waveform(CORPUS / row["path"], 16000) for row in rows]
    model = TransformerRecogniser(str(shared / "models" / "whisper-tiny.en"))
    texts = model(wavs)
    assert texts == [model([wav])[0] for wav in wavs]
    said = [normalise_transcript(row["transcription"]) for row in rows]
    assert [normalise_transcript(text) for text in texts] == said


def test_names_that_cannot_be_had_are_refused(tmp_path, asr):
    for make in (TransformerRecogniser, SpeechBrainRecogniser):
        with pytest.raises(ValueError, match="the speech recogniser 'no/such'"):
            make("no/such")
    with pytest.raises(
        ValueError, match="interface 'VAD' is no speech recogniser"
    ):
        SpeechBrainRecogniser(str(asr), "VAD")


def test_nothing_is_heard_twice(tmp_path):
    wavs = sorted(str(p) for p in CORPUS.glob("wavs/speakers/*/*"))[:5]
    first, second = Speller(), Speller()
    texts = TranscriptStore(tmp_path, first, batch_size=2).load(wavs)
    assert first.heard == 5
    again = TranscriptStore(tmp_path, second, 2).load(wavs[::-1] + wavs)
    assert second.heard == 0 and again == texts[::-1] + texts
    other = Speller()
    other.fingerprint = "e" * 64
    TranscriptStore(tmp_path, other).load(wavs)
    assert other.heard == 5


def test_what_was_heard_before_a_stop_is_kept(tmp_path):
    wavs = sorted(str(p) for p in CORPUS.glob("wavs/speakers/*/*"))[:6]

    class Stopped(Speller):
        def __call__(self, batch):
            if self.heard == 4:
                raise KeyboardInterrupt
            return super().__call__(batch)

    with pytest.raises(KeyboardInterrupt):
        TranscriptStore(tmp_path, Stopped(), 2, save_every=1).load(wavs)
    rest = Speller()
    TranscriptStore(tmp_path, rest, 2).load(wavs)
    assert rest.heard == 2


def test_nearest_transcript_gives_its_slots():
    known = ["turn on the lights", "turn off the lights", "play music"]
    targets = torch.tensor([[0, 0], [1, 0], [0, 2]])
    reader = NearestTranscript(known, targets, SLICES)
    logits = reader(["turn of the light", "play some musik", known[0]])
    assert logits[:, :2].argmax(1).tolist() == [1, 0, 0]
    assert logits[:, 2:].argmax(1).tolist() == [0, 2, 0]
    assert logits[2].max().item() == pytest.approx(20.0)  # cosine 1
    assert logits[0, 3].item() == 0.0  # no transcript has this value
    assert reader([""]).tolist() == [[0.0] * 5]


@pytest.mark.parametrize("reader", ["nearest", "teacher"])
def test_the_recipe_runs_and_leaves_what_students_leave(
    reader, small, recogniser, tmp_path
):
    options = {
        "csv_folder": small["csv_folder"],
        "manifest_folder": small["manifest_folder"],
        "fine_tuning": "{number_of_epochs: 1}",
        "transcript_folder": tmp_path / "transcripts",
        "recogniser_source": recogniser,
        "reader": reader,
        "output_folder": tmp_path / reader,
    }
    printed = run("cascade", options, script="cascade.py")
    metrics = json.loads((tmp_path / reader / "metrics.json").read_text())
    assert metrics["test"]["n"] == 16 and metrics["utt_test"]["n"] == 8
    assert metrics["exact_transcripts"]["test"] == 0.0
    assert "transcripts as spoken, test: 0.00 %" in printed
    path = tmp_path / reader / "predictions_test.csv"
    error = error_of_predictions(path)
    assert error == pytest.approx(metrics["test"]["intent_error"])
