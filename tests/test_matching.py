"""Speech is pulled towards the vector of its sentence."""

import json

import pytest
import torch
from running import run

from slu_kd_lobes.losses.matching import CosineDistance, UtteranceMatching
from slu_kd_lobes.teachers.tables import TeacherTable
from slu_kd_lobes.teachers.text_teacher import MeanPooling, TextTeacher
from slu_kd_lobes.utils.environment import packaged_minilm


def identity(weight=1.0, distance=None):
    """A matching of two channels whose projection changes nothing."""
    matching = UtteranceMatching(2, 2, weight, distance)
    torch.nn.init.eye_(matching.projection.weight)
    torch.nn.init.zeros_(matching.projection.bias)
    return matching


def test_distance_worked_out_by_hand():
    """Means [1, 1] and [4, 0] against [1, 0] and [0, 2]: 1 - 1/sqrt 2, 1."""
    frames = torch.tensor([[[2.0, 0.0], [0.0, 2.0]], [[4.0, 0.0], [9.0, 9.0]]])
    sentences = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    loss = identity(weight=3.0)(frames, torch.tensor([2, 1]), sentences)
    assert loss.item() == pytest.approx(3 * (1 - 0.5**0.5 + 1) / 2)


def test_padding_gets_no_gradient():
    frames = torch.randn(2, 5, 2, requires_grad=True)
    identity()(frames, torch.tensor([5, 3]), torch.randn(2, 2)).backward()
    assert frames.grad[1, 3:].abs().max() == 0
    assert (frames.grad[1, :3].abs().sum(-1) > 0).all()


def test_scale_of_a_sentence_vector_does_not_matter():
    x, y = torch.randn(4, 6), torch.randn(4, 6)
    assert torch.allclose(CosineDistance()(x, y), CosineDistance()(x, 7 * y))


def test_sentence_vectors_are_the_means_of_the_text_encoder():
    """Of its last layer, whatever else is in the batch; nothing is learnt."""
    teacher = TextTeacher(packaged_minilm(), None, MeanPooling()).eval()
    texts = ["louder", "turn on the lights in the kitchen"]
    tokens = teacher.tokenizer(texts[:1], return_tensors="pt")
    with torch.no_grad():
        hidden = teacher.encoder(**tokens).last_hidden_state
        vectors = teacher(texts)
    assert vectors.shape == (2, 384)
    assert torch.allclose(vectors[0], hidden.mean(1)[0], atol=1e-5)
    assert not list(teacher.classifier.parameters())


def test_matching_joins_the_loss_and_nothing_else_changes(small, tmp_path):
    """The first epoch starts from the same student; the sum is as logged."""
    options = {**small, "output_folder": tmp_path / "run"}
    options["matching_weight"] = 2.0
    run("distill_teacher_mae_exp", options)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    for row in metrics["history"]:
        logits = (1 - row["train_beta"]) * row["train_ce"]
        logits += row["train_beta"] * row["train_kd"]
        assert row["train_loss"] == pytest.approx(
            logits + row["train_matching"], rel=1e-4
        )
    assert 0 < metrics["history"][0]["train_matching"] < 2 * 2
    (table,) = small["teacher_folder"].glob("sentence-*/table.safetensors")
    vectors = TeacherTable.load(table).outputs
    # As it is: the settings of the fine-tuning, such as epochs, leave it.
    assert vectors.shape[1] == 384
    said = metrics["teachers"]
    assert list(said) == ["teacher", "sentence"]
    for knows in said.values():
        assert 0 < knows["unexplained_by_intent"] < 100
    assert 0 < said["teacher"]["unexplained_by_two_numbers"] < 100
    assert "unexplained_by_two_numbers" not in said["sentence"]
