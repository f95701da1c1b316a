#!/usr/bin/env python3
"""Times how long a command takes to be understood, on one core.

One utterance at a time, from the waveform in memory to the slots, each system
in a process of its own with one thread: a packaged model in torch, exported as
ONNX, and with 8-bit weights; the reference code of Lugosch et al. with its
filter loop fixed (random weights); and a cascade, Whisper that writes the
command down and the training transcript that is most alike.

> python benchmarks/latency.py --model my_model --corpus CORPUS \
>     --reference /path/to/end-to-end-SLU --whisper /path/to/whisper-tiny.en
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from fsc_scale import cpu_model
from peer_end_to_end_slu import check_reference, load_reference

from slu_kd_lobes.audio import read_waveform
from slu_kd_lobes.bundled import bundled
from slu_kd_lobes.files import write_json
from slu_kd_lobes.hparams import one_sentence_errors
from slu_kd_lobes.interface import SpokenIntentClassifier
from slu_kd_lobes.metrics import slot_predictions
from slu_kd_lobes.provenance import git_commit, package_versions, peak_memory_mb
from slu_kd_lobes.slots import SlotSchema

WARM_UP = 5
SYSTEMS = {
    "torch": "this project, torch",
    "onnx": "this project, onnxruntime",
    "int8": "this project, onnxruntime, 8-bit weights",
    "reference": "end-to-end-SLU, filter loop fixed",
    "whisper": "Whisper and the nearest transcript",
}


def folder_bytes(folder, suffixes):
    """Bytes of the files of a kind in a folder."""
    files = Path(folder).iterdir()
    return sum(f.stat().st_size for f in files if f.suffix in suffixes)


def torch_system(options):
    """The packaged model: a function from a waveform to slots, and bytes."""
    model = SpokenIntentClassifier.from_hparams(options.model)

    def answer(wav):
        slots = model.classify_batch(torch.from_numpy(wav))[0]["slots"]
        return {name: slot["value"] for name, slot in slots.items()}

    return answer, folder_bytes(options.model, [".ckpt"])


def onnx_system(options):
    """The exported model."""
    import onnxruntime

    threads = onnxruntime.SessionOptions()
    threads.intra_op_num_threads = threads.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(options.onnx), threads)
    facts = session.get_modelmeta().custom_metadata_map
    schema = SlotSchema(json.loads(facts["slots"]))

    def answer(wav):
        (logits,) = session.run(None, {"wav": wav})
        values, _ = slot_predictions(logits, schema.slices)
        return schema.decode(values[0])

    return answer, options.onnx.stat().st_size


def reference_system(options):
    """The reference code; its answers mean nothing, its weights are random."""
    # The folder stays until the process ends.
    folder = Path(tempfile.mkdtemp(dir=options.json.parent))
    models, _, config, _ = load_reference(
        options.reference, options.corpus, "fixed", folder
    )
    model = models.Model(config).eval()
    size = 4 * sum(p.numel() for p in model.parameters())

    @torch.no_grad()
    def answer(wav):
        model.predict_intents(torch.from_numpy(wav))

    return answer, size


def whisper_system(options):
    """Recognition, and the wording that shares most letters with it."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    model = WhisperForConditionalGeneration.from_pretrained(options.whisper)
    model = model.float().eval()
    processor = WhisperProcessor.from_pretrained(options.whisper)
    train = {row["transcription"]: row for row in rows_of(options, "train")}
    wordings = list(train)
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4))
    known = vectorizer.fit_transform(wordings)

    @torch.no_grad()
    def answer(wav):
        mel = processor(wav[0], sampling_rate=16000, return_tensors="pt")
        tokens = model.generate(mel.input_features, max_new_tokens=40)
        (text,) = processor.batch_decode(tokens, skip_special_tokens=True)
        alike = known @ vectorizer.transform([text]).T
        row = train[wordings[alike.toarray().argmax()]]
        return {name: row[name] for name in options.slots}

    return answer, folder_bytes(options.whisper, [".safetensors"])


def rows_of(options, split):
    """Rows of a CSV file of the corpus."""
    path = options.corpus / "data" / f"{split}_data.csv"
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def measure(options):
    """Times one system; the main part of its process."""
    torch.set_num_threads(1)
    system = {
        "torch": torch_system,
        "reference": reference_system,
        "whisper": whisper_system,
    }.get(options.system, onnx_system)
    rows = rows_of(options, "test")
    rows = rows[:: max(1, len(rows) // options.utterances)]
    rows = rows[: options.utterances]
    wavs = [
        read_waveform(options.corpus / row["path"], 16000)[None].numpy()
        for row in rows
    ]
    answer, size = system(options)
    for wav in wavs[:WARM_UP]:
        answer(wav)
    seconds, wrong = [], 0
    for wav, row in zip(wavs, rows):
        start = time.perf_counter()
        slots = answer(wav)
        seconds.append(time.perf_counter() - start)
        wrong += slots != {name: row[name] for name in options.slots}
    audio = sum(wav.shape[1] for wav in wavs) / 16000
    figures = {
        "utterances": len(rows),
        "audio_seconds": audio / len(rows),
        "median_ms": 1e3 * statistics.median(seconds),
        "p95_ms": 1e3 * float(np.quantile(seconds, 0.95)),
        "real_time_factor": sum(seconds) / audio,
        "peak_memory_mb": peak_memory_mb(),
        "megabytes": size / 2**20,
    }
    if options.system != "reference":
        figures["wrong"] = wrong
    write_json(options.json, figures)


def run_all(options):
    """Times every system, each in a process, and returns their figures."""
    from slu_kd_lobes.onnx import export_onnx

    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        model = SpokenIntentClassifier.from_hparams(options.model)
        for system in SYSTEMS:
            if system in ("reference", "whisper"):
                if getattr(options, system) is None:
                    continue
            out = Path(folder) / f"{system}.json"
            command = [sys.executable, *sys.argv]
            command += [f"--system={system}", f"--json={out}", "--slots"]
            command += model.schema.names
            if system in ("onnx", "int8"):
                path = Path(folder) / f"{system}.onnx"
                export_onnx(model, path, int8=system == "int8")
                command.append(f"--onnx={path}")
            env = {**os.environ, "OMP_NUM_THREADS": "1"}
            print(f"{system} ...", file=sys.stderr, flush=True)
            done = subprocess.run(command, env=env, capture_output=True)
            if done.returncode:
                last = done.stderr.decode().strip().splitlines()[-1]
                raise ValueError(f"{system} failed: {last}")
            figures[system] = json.loads(out.read_text())
    return figures


def table(figures):
    """The figures as Markdown."""
    first = next(iter(figures.values()))
    versions = {**package_versions(), "commit": git_commit() or "unknown"}
    lines = [
        f"{first['utterances']} utterances of {first['audio_seconds']:.2f} s "
        f"on average, one at a time, one thread of {cpu_model()}; "
        f"{', '.join(' '.join(item) for item in versions.items())}.",
        "",
        "| system | median ms | 95 % ms | real-time factor | memory MB | "
        "file MB | errors |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for system, row in figures.items():
        lines.append(
            f"| {SYSTEMS[system]} | {row['median_ms']:.1f} | "
            f"{row['p95_ms']:.1f} | {row['real_time_factor']:.4f} | "
            f"{row['peak_memory_mb']} | {row['megabytes']:.1f} | "
            f"{row.get('wrong', '')} |"
        )
    return "\n".join(lines)


def main():
    """Times everything, or one system in the process made for it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="packaged folder")
    parser.add_argument(
        "--corpus", type=Path, default=Path(bundled("data/synthetic-commands"))
    )
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--whisper")
    parser.add_argument("--utterances", type=int, default=100)
    parser.add_argument("--system", choices=SYSTEMS, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--onnx", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--slots", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.corpus = options.corpus.resolve()
    if options.system:
        measure(options)
        return
    with one_sentence_errors():
        if options.reference is not None:
            check_reference(options.reference)
        print(table(run_all(options)))


if __name__ == "__main__":
    main()
