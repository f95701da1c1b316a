"""The recipe of a CIF recogniser, on a corpus where a word is a tone."""

import json
from functools import partial

import numpy as np
import pytest
import soundfile
import torch
from running import ROOT, command, run, run_typed_commands, stopped

from slu_kd_lobes.data.audio import read_waveform
from slu_kd_lobes.evaluation.written import WrittenErrors
from slu_kd_lobes.inference.recognisers import SpeechBrainRecogniser
from slu_kd_lobes.students.encoders import SpeechBrainEncoder
from slu_kd_lobes.utils.environment import packaged_minilm

RECIPE = ROOT / "recipes" / "LibriSpeech" / "CIF-HKD"


def wanted(speech, folder, **changes):
    """Keys of a run."""
    return {
        "data_folder": speech,
        "splits": "{train: [train], valid: [valid]}",
        "tests": "[test]",
        "text_model": packaged_minilm(),
        "token_folder": speech / "tokens",
        "feature_folder": speech / "features",
        "output_folder": folder,
        "size": 16,
        "encoders": "{conformer: {ffn_size: 24, num_heads: 2, num_layers: 2,"
        " channels: 4, kernel_size: 3, pool_after: [1], dropout: 0.0}}",
        "make_decoder": "{ffn_size: 24, num_heads: 2, num_layers: 1,"
        " dropout: 0.0}",
        "number_of_epochs": 3,
        "batch_size": 8,
        "lr": 0.01,
        "average": 2,
        "beam_size": 3,
        **changes,
    }


def train(speech, folder, config, processes=1, fails=False, **changes):
    """Runs the recipe; returns its metrics, or what is printed."""
    options = wanted(speech, folder, **changes)
    printed = run(config, options, RECIPE, fails, processes=processes)
    if fails:
        return printed
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.parametrize(
    "config", ["ctc", "compressed", "cif", "acd", "lrd", "hkd"]
)
def test_a_run_learns_and_is_tested(config, speech, tmp_path):
    """Its own terms fall; with the search that it has."""
    metrics = train(speech, tmp_path / "run", config)
    first, *_, last = metrics["history"]
    terms = {name for name in first if name.startswith("train_")}
    known = {
        "ctc": set(),
        "compressed": {"ce"},
        "cif": {"ce", "quantity"},
        "acd": {"ce", "quantity", "acoustic"},
        "lrd": {"ce", "quantity", "linguistic"},
        "hkd": {"ce", "quantity", "acoustic", "linguistic"},
    }
    own = {f"train_{name}" for name in known[config] | {"ctc", "loss"}}
    assert terms == own
    assert last["train_loss"] < first["train_loss"]
    test = metrics["test"]
    assert test["n"] == 8 and 0 < test["wer"] <= 200
    assert ("beam" in test) == (config != "ctc")
    assert "%WER" in (tmp_path / "run" / "wer_test.txt").read_text()


def test_heads_of_the_teacher_are_no_part_of_the_recogniser(speech, tmp_path):
    """So it has as many parameters, by the same names, without a teacher."""
    names = []
    for config in ("cif", "hkd"):
        train(speech, tmp_path / config, config, number_of_epochs=1)
        (path,) = (tmp_path / config / "save").glob("CKPT*/recogniser.ckpt")
        weights = torch.load(path, weights_only=True)
        names.append({name: x.shape for name, x in weights.items()})
        heads = list(path.parent.glob("*stic.ckpt"))  # acoustic, linguistic
        assert len(heads) == (2 if config == "hkd" else 0)
    assert names[0] == names[1]


@pytest.mark.parametrize("config", ["ctc", "compressed", "hkd"])
def test_speechbrain_loads_what_was_trained(config, speech, tmp_path):
    """It writes what the test wrote, and its frames make an encoder."""
    metrics = train(speech, tmp_path / "run", config, number_of_epochs=6)
    folder = str(tmp_path / "run" / "recogniser")
    recogniser = SpeechBrainRecogniser(folder, "EncoderASR")
    rows = (speech / "test.jsonl").read_text().splitlines()
    rows = [json.loads(row) for row in rows]
    wavs = [read_waveform(str(speech / row["path"]), 16000) for row in rows]
    errors = WrittenErrors()
    errors.append(
        [row["path"] for row in rows],
        recogniser(wavs),
        [row["transcription"] for row in rows],
    )
    assert errors.rates()["wer"] == pytest.approx(metrics["test"]["wer"])
    encoder = SpeechBrainEncoder(folder, "EncoderASR", pool=2)
    features, lengths = encoder(torch.stack(wavs))
    assert features.shape == (8, 8, 16) and encoder.feature_size == 16
    if config == "ctc":
        with pytest.raises(ValueError, match="no vectors of tokens"):
            SpeechBrainEncoder(folder, "TokenEncoder")
        return
    tokens, counts = SpeechBrainEncoder(folder, "TokenEncoder")(
        torch.stack(wavs)
    )
    loaded = recogniser.model.mods
    for row, wav in enumerate(wavs):  # alone, as it is tested
        frames = loaded.encoder(wav.unsqueeze(0), torch.ones(1))
        vectors = loaded.recogniser.recognise(*frames).fired.vectors[0]
        assert counts[row] == max(1, len(vectors))
        assert torch.allclose(tokens[row, : len(vectors)], vectors, atol=1e-5)


def test_a_killed_run_goes_on_to_the_same_result(speech, tmp_path):
    options = {"number_of_epochs": 12}
    whole = train(speech, tmp_path / "a", "hkd", **options)
    words = command("hkd", wanted(speech, tmp_path / "b", **options))
    saved = "b/save/CKPT*/CKPT.yaml"
    stopped(words, lambda: list(tmp_path.glob(saved)), RECIPE)
    assert not (tmp_path / "b" / "metrics.json").exists()
    for _ in range(2):
        again = train(speech, tmp_path / "b", "hkd", **options)
        assert again["history"] == whole["history"]
        assert again["test"] == whole["test"]
    options["number_of_epochs"] = 13
    told = train(speech, tmp_path / "b", "hkd", 1, True, **options)
    assert "holds a run of 12 epochs, and make_schedule would have" in told


def test_the_control_has_the_same_teacher_of_other_sentences(speech, tmp_path):
    """What is learnt differs, and validation asks the true one."""
    options = {"number_of_epochs": 10, "lr": 0.003}
    runs = [
        train(speech, tmp_path / str(x), "acd", other_sentences=x, **options)
        for x in (False, True)
    ]
    assert runs[0]["made_from"]["teacher"] == runs[1]["made_from"]["teacher"]
    losses = [x["history"][-1]["valid_acoustic"] for x in runs]
    assert losses[0] < losses[1] - 0.1


def test_letters_are_written_too(speech, tmp_path):
    """Without a teacher, whose tokens are pieces; and CTC joins the search."""
    options = {"written": "characters", "scorer": "ctc"}
    metrics = train(speech, tmp_path / "run", "cif", **options)
    letters = set("redgreenblueblackwhitebrown")
    assert metrics["symbols"] == 3 + len(letters)
    told = train(speech, tmp_path / "x", "hkd", 1, True, **options)
    assert "is written with " in told and "Traceback" not in told


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"recogniser": "cyf"}, "cyf"),
        ({"distillation": "[acustic]"}, "acustic"),
        ({"recogniser": "ctc", "distillation": "[acoustic]"}, "acoustic"),
        ({"tests": "[nowhere]"}, "nowhere"),
        ({"tests": "[valid]"}, "there is a split of that name"),
        ({"average": "0"}, "average"),
        ({"beam_size": "0"}, "beam_size"),
        ({"scorer": "lm"}, "lm"),
    ],
)
def test_what_cannot_be_trained_is_told(changes, message, speech, tmp_path):
    told = train(speech, tmp_path, "cif", 1, True, **changes)
    assert "error: " in told and message in told
    assert "Traceback" not in told


def test_two_processes_train_as_one_does(speech, tmp_path):
    options = {"lr": 0.001, "augment": "null"}
    one = train(speech, tmp_path / "one", "hkd", **options)
    two = train(speech, tmp_path / "two", "hkd", 2, batch_size=4, **options)
    assert two["test"]["n"] == one["test"]["n"]
    losses = [x["history"][-1]["valid_ce"] for x in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


def test_typed_commands_are_found_by_token_vectors(speech, commands, tmp_path):
    """None of the test set's wordings is in training; all are typed."""
    typed = partial(run_typed_commands, RECIPE, "trained", tmp_path / "a")
    options = {"number_of_epochs": 40, "lr": 0.003, "test_epoch": "best"}
    train(speech, tmp_path / "a", "acd", **options)
    everything = typed(commands, tmp_path / "k2")
    listed = typed(commands, tmp_path / "k1", typed="train")
    assert everything["wordings"] > listed["wordings"] == 6
    errors = [x["test"]["intent_error"] for x in (everything, listed)]
    assert errors[0] < min(errors[1], 50)
    assert everything["cost"]["milliseconds"] > 0
    understood = typed(commands, tmp_path / "head", answer="head")
    assert understood["test"]["intent_error"] < errors[1]
    train(speech, tmp_path / "b", "lrd", number_of_epochs=1)
    options = {"fails": True}
    told = run_typed_commands(
        RECIPE, "trained", tmp_path / "b", commands, tmp_path, **options
    )
    assert "learnt no vectors of text: give a run of hparams/acd.yaml" in told
    told = run_typed_commands(
        RECIPE, "trained", tmp_path / "none", commands, tmp_path, **options
    )
    assert "error: trained: there is no" in told and "Traceback" not in told


def test_aishell_is_read_from_its_own_layout(tmp_path):
    """Spaces between words are no characters; what has no transcript is out."""
    corpus = tmp_path / "data_aishell"
    (corpus / "transcript").mkdir(parents=True)
    lines = []
    for split, number in (("train", 8), ("dev", 3), ("test", 3)):
        folder = corpus / "wav" / split / "S0002"
        folder.mkdir(parents=True)
        for i in range(number):
            name = f"BAC009{split}{i}"
            wav = 0.1 * np.random.default_rng(i).standard_normal(9600)
            soundfile.write(folder / f"{name}.wav", wav, 16000)
            if i > 0:
                lines.append(f"{name} 开 灯{'关' * (i % 3)}")
    text = "\n".join(lines)
    (corpus / "transcript" / "aishell_transcript_v0.8.txt").write_text(text)
    options = wanted(corpus, tmp_path / "run", number_of_epochs=1)
    for key in ("splits", "tests", "text_model"):
        del options[key]
    options["distillation"] = "[]"
    recipe = ROOT / "recipes" / "AISHELL-1" / "CIF-HKD"
    printed = run("hkd", options, recipe)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["symbols"] == 3 + len("开灯关")
    assert metrics["test"]["n"] == 2
    assert "1 of the 8 recordings of wav/train have no transcript" in printed
