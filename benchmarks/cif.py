#!/usr/bin/env python3
"""Times continuous integrate-and-fire: both forms, and what others do.

Forward and backward, weights and frames with gradients, one process for each,
whose memory is its own. Of others there is nothing in this repository: the
package torch-cif is taken if it is installed, FunASR's `cif_v1` and the
published module of MingLunHan/CIF-PyTorch from clones.

> python benchmarks/cif.py --funasr DIR --reference DIR
"""

import argparse
import ast
import json
import multiprocessing
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from slu_kd_lobes.students.cif import integrate

SIZES = ((32, 64), (16, 128), (32, 256), (8, 512), (8, 1024))
CHANNELS = 256
FRAMES_A_TOKEN = 4
FUNASR = "funasr/models/paraformer/cif_predictor.py"
REFERENCE = "modules/cif_middleware.py"


def ours(dense):
    """A form of this project."""

    def run(frames, weights, tokens):
        return integrate(frames, weights.double().cumsum(1), tokens, dense)

    return run


def torch_cif():
    """The package, or None."""
    try:
        from torch_cif import cif_function
    except ImportError:
        return None

    def run(frames, weights, tokens):
        lengths = torch.full((len(frames),), tokens)
        found = cif_function(
            frames, weights, target_lengths=lengths, unbound_alpha=True
        )
        return found["cif_out"][0]

    return run


def funasr(folder):
    """`cif_v1`, without the package around it; None without a clone."""
    if folder is None:
        return None
    tree = ast.parse((Path(folder) / FUNASR).read_text(encoding="utf-8"))
    wanted = {"cif_v1", "cif_wo_hidden_v1"}
    parts = [part for part in tree.body if getattr(part, "name", "") in wanted]
    for part in parts:
        part.decorator_list = []
    space = {"torch": torch}
    exec(compile(ast.Module(parts, []), FUNASR, "exec"), space)
    return lambda frames, weights, tokens: space["cif_v1"](
        frames, weights, 1.0
    )[0]


def reference(folder):
    """The loop of the published module, with given weights; None without."""
    if folder is None:
        return None
    space = {"__name__": "reference"}
    for kind in (torch.Tensor, torch.nn.Module):
        kind.cuda = lambda self: self  # it asks for a GPU by name
    text = (Path(folder) / REFERENCE).read_text(encoding="utf-8")
    exec(compile(text, REFERENCE, "exec"), space)
    (kind,) = (
        value
        for value in space.values()
        if isinstance(value, type) and hasattr(value, "forward")
    )
    module = kind.__new__(kind)
    torch.nn.Module.__init__(module)
    module.produce_weight_type = "given"
    module.cif_threshold, module.apply_scaling = 0.99, True
    module.cif_output_dim = module.encoder_embed_dim = CHANNELS

    def run(frames, weights, tokens):
        logits = torch.logit(weights.clamp(1e-4, 1 - 1e-4)).unsqueeze(-1)
        module.weight_proj = lambda x: logits
        padding = torch.zeros(weights.shape, dtype=torch.bool)
        given = {"encoder_raw_out": frames, "encoder_padding_mask": padding}
        lengths = torch.full((len(frames),), float(tokens))
        return module(given, lengths)["cif_out"]

    return run


def choices(options):
    """What is timed, by name; None for what is not there."""
    return {
        "dense": ours(True),
        "sparse": ours(False),
        "torch-cif": torch_cif(),
        "FunASR cif_v1": funasr(options.funasr),
        "CIF-PyTorch": reference(options.reference),
    }


def measure(name, size, options):
    """Seconds of a step, and the memory that it adds, in MB."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    run, (batch, length) = choices(options)[name], size
    tokens = length // FRAMES_A_TOKEN
    frames = torch.randn(batch, length, CHANNELS, requires_grad=True)
    weights = torch.rand(batch, length)
    weights = weights * tokens / weights.sum(1, keepdim=True)
    weights.requires_grad_()

    def step():
        run(frames, weights, tokens).square().sum().backward()

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

    before, seconds = peak(), []
    for _ in range(options.repetitions + 1):  # the first one is not counted
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
        if sum(seconds) > options.seconds:
            break
    return statistics.median(seconds[1:] or seconds), peak() - before


def main():
    """Measures all, and prints a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--funasr", help="a clone of modelscope/FunASR")
    parser.add_argument("--reference", help="a clone of MingLunHan/CIF-PyTorch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=10.0, help="a row")
    options = parser.parse_args()
    names = [name for name, run in choices(options).items() if run is not None]
    context = multiprocessing.get_context("spawn")
    found = {}
    print(f"| | {' | '.join(names)} |\n|---|{'---:|' * len(names)}")
    for size in SIZES:
        row = {}
        for name in names:
            with ProcessPoolExecutor(1, context) as pool:
                row[name] = pool.submit(measure, name, size, options).result()
        cells = [f"{1000 * s:.2f} ms, {mb:.0f} MB" for s, mb in row.values()]
        print(f"| {size[0]} x {size[1]} | {' | '.join(cells)} |", flush=True)
        found[str(size)] = row
    print(json.dumps({"options": vars(options), "found": found}))


if __name__ == "__main__":
    main()
