#!/usr/bin/env python3
"""Times the search among typed sentences, from a hundred to a million.

Lists are random words; templates are three slots of as many values each, so
that their sentences are never written out. The frames are those of a recording
by the CTC head that comes with the project, or another; the search alone is
timed, on one thread.

> python benchmarks/typed_sentences.py command.wav [--head FOLDER]
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from pathlib import Path

import torch

from slu_kd_lobes.data.audio import read_waveform
from slu_kd_lobes.data.sentences import read_templates
from slu_kd_lobes.inference.sentence_graph import Graph, SentenceSearch
from slu_kd_lobes.inference.sentence_recogniser import SentenceRecogniser
from slu_kd_lobes.inference.typed_commands import default_head


def words(number):
    """Words that can be said, all different."""
    draw = random.Random(0)
    syllables = [c + v for c in "bdfgklmnprstvw" for v in "aeiou"]
    found = set()
    while len(found) < number:
        found.add("".join(draw.choices(syllables, k=draw.randint(1, 3))))
    return sorted(found)


def listed(number):
    """A graph of a list of so many sentences of four words."""
    draw, known, graph = random.Random(1), words(1000), Graph()
    for _ in range(number):
        end = graph.listed(" ".join(draw.choices(known, k=4)))
        graph.accept(graph.mark(end, {"number": "x"}))
    return graph


def template(values):
    """A graph of a template with three slots of so many values each."""
    known, graph = words(3 * values), Graph()
    lists = {f"x{i}": {"values": known[i::3]} for i in range(3)}
    data = [{"sentences": ["turn {x0} to {x1} in {x2}"]}]
    content = {"language": "en", "intents": {"A": {"data": data}}}
    content["lists"] = lists
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.yaml"
        path.write_text(json.dumps(content))
        read_templates(path).add_to(graph)
    return graph


def main():
    """Measures all, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("wav", help="a recording")
    parser.add_argument("--head", default=None, help="folder of a CTC head")
    parser.add_argument("--repetitions", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    head = SentenceRecogniser(options.head or default_head(), Graph())
    wav = read_waveform(options.wav, head.sample_rate).unsqueeze(0)
    start = time.perf_counter()
    (likely,) = head.hear(*head.front_end(wav))
    seconds = time.perf_counter() - start
    print(f"{len(likely)} frames, heard in {1000 * seconds:.1f} ms\n")
    print(
        "| sentences | states | built, s | search, ms |\n|---|---:|---:|---:|"
    )
    for name, make, size in (
        ("100, a list", listed, 100),
        ("10,000, a list", listed, 10_000),
        ("125, a template", template, 5),
        ("9,261, a template", template, 21),
        ("1,000,000, a template", template, 100),
    ):
        start = time.perf_counter()
        search = SentenceSearch(make(size), **head.symbols)
        built = time.perf_counter() - start
        times = []
        for _ in range(options.repetitions):
            start = time.perf_counter()
            search(likely)
            times.append(time.perf_counter() - start)
        search_ms = 1000 * statistics.median(times)
        states = f"{search.fst.num_states:,}"
        print(f"| {name} | {states} | {built:.2f} | {search_ms:.1f} |")


if __name__ == "__main__":
    main()
