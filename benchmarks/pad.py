#!/usr/bin/env python3
"""What the alignments of PAD cost, beside a loop and beside the speech model.

Time and memory of a forward and a backward pass of each distance, of the
span-level distance as loops over items, anchors, spans and tokens, and of the
speech model whose frames they take (wav2vec 2.0-base's sizes, random weights).
All in one run, each in a process of its own; the median of the repetitions.

> python benchmarks/pad.py
> python benchmarks/pad.py --batch=8 --seconds=10 --tokens=30 --device=cuda
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor

import torch
import torch.nn.functional as F
from transformers import Wav2Vec2Config, Wav2Vec2Model

from slu_kd_lobes.losses.alignment import (
    GlobalAlignment,
    LocalAlignment,
    SentenceAlignment,
    SpanAlignment,
    Units,
)
from slu_kd_lobes.losses.priors import received_attention

RATE = 50  # frames a second


class Loops(SpanAlignment):
    """The span-level distance, one item, anchor, span and token at a time."""

    def measure(self, frames, tokens):
        """Returns minus the similarity of each pair."""
        losses = []
        for item in range(len(frames.mask)):
            length, size = (int(x.mask[item].sum()) for x in (frames, tokens))
            priors = frames.priors[item, :length]
            per_token = max(1, round(length / size))
            spans = []
            for anchor in priors.topk(min(length, size)).indices.tolist():
                for multiple in self.spans:
                    wide = max(1, round(per_token * multiple))
                    start = anchor - wide // 2
                    end = min(length, start + wide)
                    rows = frames.vectors[item, max(0, start) : end]
                    spans.append(rows.mean(0))
            loss = 0.0
            for token in range(size):
                text = tokens.vectors[item, token]
                best = max(F.cosine_similarity(x, text, dim=0) for x in spans)
                loss = loss - tokens.priors[item, token] * best
            losses.append(loss)
        return torch.stack(losses)


KINDS = {
    "glob": GlobalAlignment,
    "sentence": SentenceAlignment,
    "tlocal": LocalAlignment,
    "slocal": SpanAlignment,
    "slocal, loops": Loops,
}


def units(batch, size, width, device, gradient=False):
    """Random units; the items are of different lengths."""
    lengths = torch.linspace(0.6, 1, batch).mul(size).long()
    mask = torch.arange(size) < lengths.unsqueeze(1)
    priors = torch.rand(batch, size) * mask
    vectors = torch.randn(batch, size, width, device=device)
    return Units(
        vectors.requires_grad_(gradient),
        mask.to(device),
        (priors / priors.sum(1, keepdim=True)).to(device),
    )


def make(what, options):
    """A function that makes one forward and one backward pass."""
    torch.manual_seed(0)
    batch, device = options.batch, options.device
    size = round(RATE * options.seconds)
    if what == "speech model":
        config = Wav2Vec2Config(mask_time_prob=0.0, layerdrop=0.0)
        config._attn_implementation = "eager"
        model = Wav2Vec2Model(config).to(device).train()
        model.freeze_feature_encoder()
        width = config.conv_dim[-1]
        given = units(batch, size, width, device)

        def step():
            frames = model.feature_projection(given.vectors)[0]
            found = model.encoder(
                frames, attention_mask=given.mask, output_attentions=True
            )
            found.last_hidden_state.mean().backward()

        return step
    frames = units(batch, size, options.width, device, gradient=True)
    tokens = units(batch, options.tokens, options.width, device)
    if what == "priors":
        attention = torch.rand(batch, 12, size, size, device=device).softmax(-1)
        return lambda: received_attention(attention, frames.mask)
    loss = KINDS[what]()
    loss.set_width(options.width)
    loss.to(device)
    return lambda: loss(frames, tokens).backward()


def measure(what, options):
    """Seconds of a step, and the memory that it adds, in MB."""
    torch.set_num_threads(options.threads)
    step, cuda = make(what, options), options.device != "cpu"

    def peak():
        if cuda:
            return torch.cuda.max_memory_allocated() / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

    before, seconds = peak(), []
    for _ in range(options.repetitions + 1):  # the first one is not counted
        start = time.perf_counter()
        step()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:]), peak() - before


def main():
    """Measures all, and prints a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    found = {}
    for what in (*KINDS, "priors", "speech model"):
        with ProcessPoolExecutor(1, context) as pool:  # memory of its own
            found[what] = pool.submit(measure, what, options).result()
    whole = found["speech model"]
    print("| | ms | of the speech model, % | MB more |\n|---|---:|---:|---:|")
    for what, (seconds, memory) in found.items():
        share = 100 * seconds / whole[0]
        print(f"| {what} | {1000 * seconds:.1f} | {share:.2f} | {memory:.0f} |")
    print(json.dumps({"options": vars(options), "found": found}))


if __name__ == "__main__":
    main()
