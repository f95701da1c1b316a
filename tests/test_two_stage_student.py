"""The student of audio tokens: what trains, masks, padding, what it is of."""

import json
from functools import partial

import pytest
import torch
from running import ROOT, metrics_of, run

from slu_kd_lobes.data.token_dictionary import UNK, TokenDictionary
from slu_kd_lobes.inference.package import package_run
from slu_kd_lobes.losses.distances import L1Distance
from slu_kd_lobes.losses.distillation import Distillation
from slu_kd_lobes.losses.schedules import (
    AddedWeight,
    ConstantWeight,
    FixedTeachers,
    label_weight,
)
from slu_kd_lobes.losses.slots import SlotCrossEntropy
from slu_kd_lobes.students.acoustic_model import AcousticModel
from slu_kd_lobes.students.audio_tokens import KMeansTokens
from slu_kd_lobes.students.sincnet import SincNetEncoder
from slu_kd_lobes.students.token_encoder import TokenEncoder
from slu_kd_lobes.students.two_stage import TwoStageStudent
from slu_kd_lobes.training.hparams import load_hparams
from slu_kd_lobes.utils.fingerprints import module_fingerprint

RECIPES = ROOT / "recipes" / "fluent-speech-commands"
SIZES = dict(hidden_size=6, num_layers=2, channels=2)


@pytest.fixture
def folder(tmp_path):
    """A small encoder of tokens of two codes, of 20 ms."""
    torch.manual_seed(0)
    words = torch.cartesian_prod(torch.arange(3), torch.arange(3)).tolist()
    encoder = TokenEncoder(TokenDictionary(words, 4), 20.0, 16, 2, 2, 32)
    encoder.save(tmp_path / "encoder")
    return tmp_path / "encoder"


def make(folder, **changes):
    """A small student in training mode."""
    torch.manual_seed(1)
    options = {"token_encoder": folder, **SIZES, **changes}
    return TwoStageStudent(num_logits=5, input_size=2, **options)


def codes_of(batch=3, size=30):
    """Codes of utterances, and their lengths."""
    torch.manual_seed(2)
    lengths = torch.tensor([size, size // 2, size // 3])[:batch]
    return torch.randint(0, 3, (batch, size, 2)), lengths


def test_padding_and_batches_change_nothing(folder):
    """In eval mode, whatever codes stand after an item's end."""
    student = make(folder).eval()
    codes, lengths = codes_of()
    logits = student(codes, lengths)
    inside = torch.arange(30) < lengths.unsqueeze(1)
    other = torch.where(inside.unsqueeze(-1), codes, 3)
    torch.testing.assert_close(student(other, lengths), logits)
    for i, length in enumerate(lengths.tolist()):
        alone = student(codes[i : i + 1, :length])
        torch.testing.assert_close(alone[0], logits[i])
    order = torch.tensor([1, 2, 0])
    torch.testing.assert_close(
        student(codes[order], lengths[order]), logits[order]
    )


def test_the_maximum_is_over_the_frames_of_an_item(folder):
    """Also where all of them are below zero, which the padding is not."""
    student = make(folder).eval()
    codes, lengths = codes_of()
    logits, frames = student(codes, lengths, return_frames=True)
    sizes = (lengths + 1 + 1) // 2  # with the mark of the begin, halved
    for i, size in enumerate(sizes.tolist()):
        best = frames[i, :size].amax(0)
        torch.testing.assert_close(student.classifier(best), logits[i])
    assert (frames[2, : sizes[2]].amax(0) < 0).any()


def test_a_frozen_encoder_gets_no_gradient(folder):
    """One that is not frozen does, all of what it hears with."""
    codes, lengths = codes_of()
    student = make(folder)
    student(codes, lengths).sum().backward()
    assert all(p.grad is None for p in student.encoder.parameters())
    assert all(p.grad is not None for p in student.acoustic.parameters())
    student = make(folder, freeze=False)
    student(codes, lengths).square().sum().backward()
    trains = [p for p in student.encoder.parameters() if p.requires_grad]
    assert trains and all(p.grad is not None for p in trains)
    heard = student.encoder.model.roberta.encoder.parameters()
    assert all(p.requires_grad for p in heard)


@pytest.mark.parametrize("on", [True, False])
def test_the_dropout_of_a_frozen_encoder_is_a_switch(folder, on):
    """It is on in training alone."""
    student = make(folder, encoder_dropout=on).train()
    assert student.encoder.training == on
    seen = []
    student.encoder.register_forward_hook(lambda m, x, y: seen.append(y))
    codes, lengths = codes_of()
    student(codes, lengths), student(codes, lengths)
    assert torch.equal(*seen) != on
    seen.clear()
    student.eval()
    student(codes, lengths), student(codes, lengths)
    assert torch.equal(*seen)


def test_an_encoder_that_trains_has_its_dropout_on(folder):
    """Whatever is said of a frozen one."""
    student = make(folder, freeze=False, encoder_dropout=False).train()
    assert student.encoder.training


def test_augmentation_masks_tokens_and_states_in_training_alone(folder):
    """A fifth of the tokens, never the mark of the begin."""
    student = make(folder, augment=True, encoder_dropout=False)
    tokens, states = [], []
    student.encoder.register_forward_hook(lambda m, x, y: tokens.append(x[0]))
    student.acoustic.register_forward_hook(lambda m, x, y: states.append(x[0]))
    codes, lengths = codes_of(size=120)
    student.train()(codes, lengths)
    student.eval()(codes, lengths)
    mask = student.dictionary.mask
    masked = tokens[0] == mask
    inside = torch.arange(121) < lengths.unsqueeze(1) + 1
    assert 0.1 < (masked.sum() / inside.sum()) < 0.3
    assert not masked[:, 0].any() and not (masked & ~inside).any()
    zero = states[0] == 0
    assert zero[0].all(1).any() and zero[0].all(0).any()
    assert not (tokens[1] == mask).any() and not (states[1] == 0).any()


def test_the_same_seed_masks_the_same(folder):
    """Twice the same step gives the same logits."""
    student = make(folder, augment=True).train()
    codes, lengths = codes_of()
    found = []
    for _ in range(2):
        torch.manual_seed(5)
        found.append(student(codes, lengths))
    assert torch.equal(*found)


def test_a_word_that_was_never_heard_is_read(folder):
    """The fourth code is in no word of the dictionary."""
    student = make(folder).eval()
    codes = torch.full((1, 4, 2), 3)
    assert (student.dictionary.look_up(codes) == UNK).all()
    assert student(codes).isfinite().all()


def test_what_it_is_made_of_is_told(folder, tmp_path):
    """Another acoustic model, or none, is another student."""
    path = tmp_path / "acoustic.safetensors"
    first = make(folder).made_from
    assert first["acoustic model"] is None
    acoustic = AcousticModel(16, **SIZES)
    acoustic.save(path, {"encoder": first["token encoder"]})
    student = make(folder, acoustic_model=path)
    assert student.made_from["acoustic model"]
    assert student.made_from["token encoder"] == first["token encoder"]
    for mine, theirs in zip(
        student.acoustic.parameters(), acoustic.parameters()
    ):
        assert torch.equal(mine, theirs)
    acoustic.save(path, {"encoder": "another"})
    with pytest.raises(ValueError, match="made from another encoder: give"):
        make(folder, acoustic_model=path)


def test_tokens_of_another_kind_are_refused(folder):
    """The encoder was trained on pairs of codes."""
    with pytest.raises(ValueError, match="reads tokens of 2 codes"):
        TwoStageStudent(5, 3, token_encoder=folder, **SIZES)
    with pytest.raises(ValueError, match="encoder of audio tokens"):
        make(folder.parent / "nowhere")


def test_the_loss_is_the_published_sum():
    """CE + sum |student - teacher| / batch, by hand."""
    student = torch.tensor([[2.0, 0.0], [0.5, 1.0]])
    teacher = torch.tensor([[4.0, -1.0], [0.5, 3.0]])
    slices = {"intent": slice(0, 2)}
    targets = torch.tensor([[0], [1]])
    ce = SlotCrossEntropy()(student, targets, slices)
    distillation = Distillation(
        ["teacher"], L1Distance(reduction="sum"), FixedTeachers()
    )
    error = torch.tensor(0.5)
    kd, _ = distillation(student, {"teacher": teacher}, error, slices)
    assert kd.item() == pytest.approx((2 + 1 + 0 + 2) / 2)
    weight = AddedWeight(1.0)
    beta = weight(epoch=3, error_rate=error)
    assert label_weight(weight, beta) * ce + beta * kd == ce + kd
    half = ConstantWeight(0.25)
    assert label_weight(half, half(1, error)) == 0.75
    with pytest.raises(ValueError, match="below 0"):
        AddedWeight(-0.1)


def test_a_student_without_an_encoder_is_one_sentence():
    with pytest.raises(ValueError, match="token_encoder: give the encoder"):
        TwoStageStudent(5, 2, None)


def test_an_encoder_reads_no_more_tokens_than_it_learnt(folder):
    """The sentence says how many there are."""
    words, codes = [(0,), (1,)], torch.zeros(1, 40, 1, dtype=torch.long)
    encoder = TokenEncoder(
        TokenDictionary(words, 2), 20.0, 16, 1, 2, 32, max_length=20
    )
    encoder.save(folder.parent / "short")
    student = TwoStageStudent(
        5, 1, token_encoder=folder.parent / "short", **SIZES
    )
    with pytest.raises(ValueError, match="41 tokens.*at most 20"):
        student(codes)
    assert student(codes[:, :19]).shape == (1, 5)


def test_saved_and_read_an_encoder_is_the_same(folder):
    """Words, frame rate, weights; saved again in the same place."""
    encoder = TokenEncoder.load(folder)
    assert encoder.frame_ms == 20.0 and encoder.hidden_size == 16
    tokens = torch.tensor([[0, 5, 6, 7]])
    states = encoder.eval()(tokens, torch.tensor([4]))
    encoder.save(folder)
    again = TokenEncoder.load(folder).eval()(tokens, torch.tensor([4]))
    assert torch.equal(states, again)


def test_distillation_can_be_added_in_the_main_recipe():
    """With a weight of its own, beside the schedules of eq. 5."""
    yaml = str(RECIPES / "logit_distillation/hparams/baseline.yaml")
    hparams, _ = load_hparams(
        yaml, {"kd_schedule": "added", "kd_weight": "0.7"}
    )
    assert hparams["beta"](1, 0.5) == hparams["beta"](9, 0.1) == 0.7
    assert label_weight(hparams["beta"], 0.7) == 1.0


@pytest.fixture
def tune(small, tmp_path):
    """Runs the fine-tuning on a little of the bundled corpus."""
    source = ROOT / "pretrained" / "sincnet-read-speech"
    make_encoder = partial(SincNetEncoder, source=source, level="phoneme")
    tokens = KMeansTokens(make_encoder, groups=2, clusters=3)
    tokens.fit_frames(torch.randn(200, tokens.encoder.feature_size), seed=1)
    words = torch.cartesian_prod(torch.arange(3), torch.arange(3)).tolist()
    folder = tmp_path / "encoder"

    def new_encoder(made_with=tokens):
        dictionary = TokenDictionary(words, 3)
        encoder = TokenEncoder(
            dictionary,
            *(tokens.frame_ms, 16, 1, 2, 16),
            tokeniser=module_fingerprint(made_with),
        )
        encoder.save(folder)
        tokens.save(folder / "tokeniser.safetensors")

    new_encoder()
    shared = ("csv_folder", "feature_folder", "manifest_folder")

    def tuned(name, fails=False, **changes):
        options = {
            **{key: small[key] for key in shared},
            "output_folder": tmp_path / name,
            "speech_folder": "none",
            "token_encoder": folder,
            "teachers": "[]",
            "acoustic": "{hidden_size: 6, num_layers: 1, channels: 2}",
            "number_of_epochs": 3,
            "lr": 0.01,
            "lr_decay": 0.5,
            **changes,
        }
        printed = run("small", options, RECIPES / "two_stage", fails, TUNE)
        return printed, tmp_path / name

    tuned.new_encoder = new_encoder
    return tuned


TUNE = "finetune.py"


def test_tokens_of_another_tokeniser_are_refused(tune):
    """Although they have as many codes as the encoder has read."""
    tune.new_encoder(torch.nn.Linear(1, 1))
    printed, folder = tune("run", fails=True)
    assert "was made with another encoder: choose that" in printed


def losses_of(folder):
    """Training losses of the epochs."""
    history = json.loads((folder / "metrics.json").read_text())["history"]
    return [row["train_loss"] for row in history]


def test_a_run_that_goes_on_ends_with_the_same_numbers(tune):
    """Masks, dropout and the learning rate of an epoch depend on it alone."""
    _, whole = tune("whole")
    tune("part", number_of_epochs=1)
    _, part = tune("part")
    assert metrics_of(part) == metrics_of(whole)
    _, steady = tune("steady", lr_decay=1.0)
    first, second = losses_of(whole), losses_of(steady)
    assert first[0] == second[0] and first[2] != second[2]


def test_another_encoder_does_not_go_on_with_a_run(tune):
    """Although its folder has the same name; what trains is counted."""
    _, folder = tune("run", number_of_epochs=1)
    sizes = metrics_of(folder)["parameters"]
    student = TwoStageStudent(31, 2, folder.parent / "encoder", None, 6, 1, 2)
    trained = sum(p.numel() for p in student.parameters() if p.requires_grad)
    assert sizes["trained"] == trained
    assert sizes["frozen"] > sum(
        p.numel() for p in student.encoder.parameters()
    )
    with pytest.raises(ValueError, match="TwoStageStudent cannot be packaged"):
        package_run(folder, folder.parent / "package")
    tune.new_encoder()
    printed, _ = tune("run", fails=True)
    assert "token encoder" in printed and "Traceback" not in printed
