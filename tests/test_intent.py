"""The intent module: a BiGRU, one logit a value, the maximum over time."""

import torch

from slu_kd_lobes.students.intent import IntentClassifier


def test_parameters_are_those_of_the_published_model():
    """GRU 296,448, classifier 6,168."""
    student = IntentClassifier(num_logits=24)
    sizes = [
        sum(p.numel() for p in module.parameters())
        for module in (student.rnn, student.classifier, student)
    ]
    assert sizes == [296_448, 6_168, 302_616]


def test_logits_are_the_maximum_over_time_of_the_frames():
    """Each value takes its own best frame."""
    student = IntentClassifier(24).eval()
    features = torch.randn(3, 7, 256)
    frames = student.frame_logits(features)
    assert frames.shape == (3, 7, 24)
    best = frames.argmax(1)
    assert len(best[0].unique()) > 1
    expected = frames.gather(1, best.unsqueeze(1)).squeeze(1)
    assert torch.equal(student(features), expected)


def test_maximum_never_picks_padding():
    """Not even where all real logits are negative."""
    student = IntentClassifier(24).eval()
    student.classifier.bias.data.fill_(-100.0)
    features, lengths = torch.randn(2, 9, 256), torch.tensor([4, 9])
    # Also the classifier's own answer to an empty frame must not win.
    student.classifier.weight.data.abs_()
    features[0, 4:] = 50.0
    logits = student(features, lengths)
    assert (logits < 0).all()
    alone = student(features[:1, :4])
    torch.testing.assert_close(logits[:1], alone, rtol=0, atol=1e-5)
    frames = student.frame_logits(features, lengths)
    assert (frames[0, 4:] == float("-inf")).all()
    assert frames[0, :4].isfinite().all() and frames[1].isfinite().all()


def test_no_gradient_flows_into_padding():
    """Frames after the end of an item change nothing."""
    student = IntentClassifier(24).eval()
    features = torch.randn(2, 6, 256, requires_grad=True)
    student(features, torch.tensor([2, 6])).sum().backward()
    assert features.grad[0, :2].any()
    assert not features.grad[0, 2:].any()
    assert features.grad.isfinite().all()


def test_one_frame_is_enough():
    """The shortest utterance has one frame of 160 ms."""
    student = IntentClassifier(5).eval()
    logits = student(torch.randn(1, 1, 256), torch.tensor([1]))
    assert logits.shape == (1, 5) and logits.isfinite().all()


def test_dropout_is_active_in_training_only():
    """Between the GRU and the classifier."""
    student, features = IntentClassifier(24), torch.randn(1, 7, 256)
    assert not torch.equal(student(features), student(features))
    student.eval()
    assert torch.equal(student(features), student(features))
