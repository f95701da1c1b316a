"""Continuous integrate-and-fire: its sums, its gradients, its tail."""

import pytest
import torch

from slu_kd_lobes.students.cif import CIF, integrate

FORMS = pytest.mark.parametrize("dense", [True, False])


def looped(frames, weights, size):
    """The definition, a frame and a token at a time."""
    out = torch.zeros(len(frames), size, frames.shape[2], dtype=torch.float64)
    for b, item in enumerate(weights.tolist()):
        end = 0.0
        for t, weight in enumerate(item):
            start, end = end, end + weight
            for u in range(size):
                share = min(end, u + 1) - max(start, u)
                if share > 0:
                    out[b, u] += share * frames[b, t].double()
    return out


def drawn(batch, frames, tokens, dtype=torch.float64, channels=5):
    """Frames, and weights that make so many tokens."""
    torch.manual_seed(frames * tokens)
    weights = torch.rand(batch, frames, dtype=torch.float64) + 0.01
    weights = weights * tokens / weights.sum(1, keepdim=True)
    return torch.randn(batch, frames, channels, dtype=dtype), weights


@FORMS
@pytest.mark.parametrize("rate", [0.3, 1, 1.5, 2, 4, 8])
def test_both_forms_are_the_definition(dense, rate):
    """At `rate` frames a token; below 1 a frame makes several."""
    size = round(24 / rate)
    frames, weights = drawn(3, 24, size)
    out = integrate(frames, weights.cumsum(1), size, dense)
    assert (out - looped(frames, weights, size)).abs().max() < 1e-12


@FORMS
def test_a_frame_that_makes_many_tokens(dense):
    """By hand: tokens 0 and 3 are mixed, 1 and 2 lie in the middle frame."""
    frames = torch.tensor([[[1.0], [10.0], [100.0]]])
    ends = torch.tensor([[0.25, 3.5, 5.5]])
    out = integrate(frames, ends, 6, dense).flatten()
    assert out.tolist() == [7.75, 10, 10, 55, 100, 50]
    fewer = integrate(frames, ends, 2, dense).flatten()
    assert fewer.tolist() == [7.75, 10]


@FORMS
def test_a_batch_without_items_and_items_without_tokens(dense):
    ends = torch.rand(2, 5).cumsum(1)
    frames = torch.randn(2, 5, 4)
    assert integrate(frames, ends, 0, dense).shape == (2, 0, 4)
    assert integrate(frames[:0], ends[:0], 3, dense).shape == (0, 3, 4)


@FORMS
def test_gradients_are_exact(dense):
    """To the frames and to the weights, where several tokens lie in one."""
    frames, weights = drawn(2, 7, 9, channels=3)
    assert torch.autograd.gradcheck(
        lambda x, w: integrate(x, w.cumsum(1), 8, dense),
        (frames.requires_grad_(), weights.requires_grad_()),
    )


@FORMS
@pytest.mark.parametrize("tokens", [257, 700])
def test_long_input_is_as_exact_as_short_one(dense, tokens):
    """In single precision, and under autocast to bfloat16."""
    frames, weights = drawn(1, 1000, tokens, torch.float32)
    expected = looped(frames, weights, tokens)
    ends = weights.float().double().cumsum(1)
    out = integrate(frames, ends, tokens, dense)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(integrate(frames, ends, tokens, dense), out)
    assert (out - expected).abs().max() < 3e-5


def module(**options):
    torch.manual_seed(1)
    cif = CIF(8, **options).eval()
    # Weights far from 0.5, as after training.
    torch.nn.init.normal_(cif.weight.weight, std=2.0)
    return cif


def batch_of(lengths, channels=8):
    torch.manual_seed(2)
    frames = torch.randn(len(lengths), max(lengths), channels)
    return frames, torch.tensor(lengths)


@pytest.mark.parametrize("targets", [None, [5, 3, 1, 9]])
def test_padding_and_neighbours_change_nothing(targets):
    """With targets and without, at the longest item and alone."""
    cif = module()
    frames, lengths = batch_of([31, 18, 2, 30])
    wanted = None if targets is None else torch.tensor(targets)
    with torch.no_grad():
        whole = cif(frames, lengths, wanted)
        assert len(set(whole.lengths.tolist())) > 2
        for i, n in enumerate(lengths.tolist()):
            target = None if wanted is None else wanted[i : i + 1]
            alone = cif(frames[i : i + 1, :n], lengths[i : i + 1], target)
            count = int(whole.lengths[i])
            assert int(alone.lengths) == count == alone.vectors.shape[1]
            inside = whole.vectors[i, :count]
            assert torch.allclose(alone.vectors[0], inside, atol=1e-6)
            assert not whole.vectors[i, count:].any()
            assert not whole.weights[i, n:].any()
        noise = frames.clone()
        noise[1, 18:] = 1e4
        again = cif(noise, lengths, wanted)
        assert torch.equal(again.vectors, whole.vectors)


def test_scaled_weights_make_the_targets():
    """Every token is a mean of frames: its shares sum to one."""
    cif = module(dropout=0.0).train()
    lengths, targets = torch.tensor([40, 25]), torch.tensor([11, 2])
    frames = torch.cat([batch_of([40, 25], 7)[0], torch.ones(2, 40, 1)], 2)
    fired = cif(frames, lengths, targets, size=11)
    shares = fired.vectors[..., -1]
    assert torch.allclose(shares[0], torch.ones(11), atol=1e-6)
    assert torch.allclose(shares[1, :2], torch.ones(2), atol=1e-6)
    assert not shares[1, 2:].any()
    assert torch.equal(fired.lengths, targets)
    # Not scaled: what the quantity loss needs.
    assert not torch.allclose(fired.weights.sum(1), targets.float(), atol=0.1)
    fired.vectors.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in cif.parameters())


@pytest.mark.parametrize(
    "weights, expected",
    [
        ([0.75, 0.75, 0.25], [[7.75 - 0.25 * 6, 0]]),
        ([0.5, 0.5, 0.75], None),
    ],
)
def test_what_is_left_at_the_end(weights, expected, monkeypatch):
    """It makes a token if it weighs more than a half, divided by its weight."""
    cif = CIF(1)
    rows = torch.tensor([weights])
    monkeypatch.setattr(cif, "frame_weights", lambda frames, inside: rows)
    frames = torch.tensor([[[1.0], [10.0], [100.0]]])
    fired = cif(frames, torch.tensor([3]))
    if expected is None:  # 1 and 10 by half; then 100 alone
        assert fired.vectors.flatten().tolist() == [5.5, 100.0]
    else:  # 0.5 of 10 and 0.25 of 100 weigh 0.75
        first, second = fired.vectors.flatten().tolist()
        assert first == 0.75 + 2.5
        assert second == pytest.approx((5 + 25) / 0.75)
    cif.tail = 0.8
    assert cif(frames, torch.tensor([3])).lengths.tolist() == [1]


def test_no_frame_makes_no_token():
    """An item without a token has length 0, and the batch none either."""
    cif = module()
    torch.nn.init.constant_(cif.weight.bias, -100.0)
    fired = cif(*batch_of([6, 4]))
    assert fired.vectors.shape == (2, 0, 8) and not fired.lengths.any()


def test_half_precision_reaches_no_sum():
    """Under autocast all but the layers' own products is single precision."""
    cif = module()
    frames, lengths = batch_of([700, 650])
    torch.nn.init.constant_(cif.weight.bias, 3.0)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        fired = cif(frames, lengths)
        scaled = cif(frames, lengths, torch.tensor([300, 257]))
    assert fired.lengths.min() > 257
    assert fired.vectors.dtype == fired.weights.dtype == torch.float32
    ends = fired.weights.double().cumsum(1)
    expected = integrate(frames, ends, int(ends[:, -1].min()), False)
    size = expected.shape[1]
    assert torch.allclose(fired.vectors[:, :size], expected, atol=1e-4)
    assert scaled.vectors[1, 256].any()  # the last token of 257 fires


@FORMS
def test_training_compiles_as_one_graph(dense, monkeypatch):
    """Nothing in it asks the host, if it is told the size."""
    monkeypatch.setattr("slu_kd_lobes.students.cif.DENSE_UP_TO", dense * 2**20)
    cif = module().train()
    frames, lengths = batch_of([30, 20])
    targets = torch.tensor([7, 4])
    compiled = torch.compile(cif, fullgraph=True, backend="aot_eager")
    torch.manual_seed(3)
    expected = cif(frames, lengths, targets, size=7).vectors
    torch.manual_seed(3)
    found = compiled(frames, lengths, targets, size=7).vectors
    assert torch.allclose(found, expected, atol=1e-6)


def test_onnx_gives_the_same_for_any_length(tmp_path):
    """Exported once, for a batch of two."""
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    cif = module()
    path = tmp_path / "cif.onnx"
    torch.onnx.export(
        cif,
        batch_of([900, 11]),
        str(path),
        input_names=["frames", "lengths"],
        output_names=["vectors", "tokens", "weights"],
        dynamic_axes={
            "frames": {0: "batch", 1: "frames"},
            "lengths": {0: "batch"},
            "vectors": {0: "batch", 1: "tokens"},
            "tokens": {0: "batch"},
            "weights": {0: "batch", 1: "frames"},
        },
        opset_version=18,
        dynamo=False,
    )
    session = onnxruntime.InferenceSession(str(path))
    for sizes in ([1], [5], [3, 40, 17], [700, 23], [300] * 4):
        frames, lengths = batch_of(sizes)
        with torch.no_grad():
            fired = cif(frames, lengths)
        found = session.run(
            None, {"frames": frames.numpy(), "lengths": lengths.numpy()}
        )
        assert found[1].tolist() == fired.lengths.tolist()
        assert found[0].shape == fired.vectors.shape
        assert torch.allclose(
            torch.tensor(found[0]), fired.vectors, atol=1e-4, rtol=1e-4
        )
