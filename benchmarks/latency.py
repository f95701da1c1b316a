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

# What a system needs is imported where it starts: its process shall hold
# nothing else, as its memory is measured.

ROOT = Path(__file__).resolve().parents[1]
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
    import torch

    from slu_kd_lobes.inference.classifier import SpokenIntentClassifier

    torch.set_num_threads(1)
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
    slots = json.loads(facts["slots"])
    ends = np.cumsum([len(values) for values in slots.values()])[:-1]

    def answer(wav):
        (logits,) = session.run(None, {"wav": wav})
        best = [part.argmax() for part in np.split(logits[0], ends)]
        return {name: slots[name][i] for name, i in zip(slots, best)}

    return answer, options.onnx.stat().st_size


def reference_system(options):
    """The reference code; its answers mean nothing, its weights are random."""
    import torch
    from peer_end_to_end_slu import load_reference

    torch.set_num_threads(1)
    # The folder stays until the process ends.
    folder = Path(tempfile.mkdtemp(dir=options.json.parent))
    models, _, config, _ = load_reference(
        options.reference, options.corpus, "fixed", folder
    )
    model = models.Model(config).eval()
    size = 4 * sum(p.numel() for p in model.parameters())

    def answer(wav):
        with torch.no_grad():
            model.predict_intents(torch.from_numpy(wav))

    return answer, size


def whisper_system(options):
    """Recognition, and the transcript that shares most letters with it."""
    import torch

    from slu_kd_lobes.data.slots import SlotSchema
    from slu_kd_lobes.inference.recognisers import (
        NearestTranscript,
        TransformerRecogniser,
    )

    torch.set_num_threads(1)
    recogniser = TransformerRecogniser(options.whisper)
    rows = {row["transcription"]: row for row in rows_of(options, "train")}
    schema = SlotSchema.from_rows(rows.values(), options.slots)
    targets = torch.tensor([schema.encode(row) for row in rows.values()])
    reader = NearestTranscript(list(rows), targets, schema.slices)

    def answer(wav):
        (logits,) = reader(recogniser([torch.from_numpy(wav[0])]))
        return schema.decode([x.argmax().item() for x in schema.split(logits)])

    return answer, folder_bytes(options.whisper, [".safetensors"])


def rows_of(options, split):
    """Rows of a CSV file of the corpus."""
    path = options.corpus / "data" / f"{split}_data.csv"
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def measure(options):
    """Times one system; the main part of its process."""
    system = {
        "torch": torch_system,
        "reference": reference_system,
        "whisper": whisper_system,
    }.get(options.system, onnx_system)
    answer, size = system(options)
    audio = options.json.with_name("audio.npz")
    with np.load(audio) as file:
        wavs = [file[name] for name in file.files]
    for wav in wavs[:WARM_UP]:
        answer(wav)
    seconds, wrong = [], 0
    for wav, row in zip(wavs, chosen_rows(options)):
        start = time.perf_counter()
        slots = answer(wav)
        seconds.append(time.perf_counter() - start)
        wrong += slots != {name: row[name] for name in options.slots}
    length = sum(wav.shape[1] for wav in wavs) / 16000
    figures = {
        "utterances": len(wavs),
        "audio_seconds": length / len(wavs),
        "median_ms": 1e3 * statistics.median(seconds),
        "p95_ms": 1e3 * float(np.quantile(seconds, 0.95)),
        "real_time_factor": sum(seconds) / length,
        "peak_memory_mb": peak_memory_mb(),
        "megabytes": size / 2**20,
    }
    if options.system != "reference":
        figures["wrong"] = wrong
    options.json.write_text(json.dumps(figures))


def peak_memory_mb():
    """Of this process alone; getrusage would begin with its parent's."""
    status = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def chosen_rows(options):
    """Evenly spaced rows of the test set."""
    rows = rows_of(options, "test")
    rows = rows[:: max(1, len(rows) // options.utterances)]
    return rows[: options.utterances]


def run_all(options):
    """Times every system, each in a process, and returns their figures."""
    from slu_kd_lobes.data.audio import read_waveform
    from slu_kd_lobes.inference.classifier import SpokenIntentClassifier
    from slu_kd_lobes.inference.onnx import export_onnx

    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        wavs = [
            read_waveform(options.corpus / row["path"], 16000)[None].numpy()
            for row in chosen_rows(options)
        ]
        np.savez(Path(folder) / "audio.npz", *wavs)
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
    from fsc_scale import cpu_model

    from slu_kd_lobes.utils.environment import git_commit, package_versions

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
            f"{row['peak_memory_mb']:.0f} | {row['megabytes']:.1f} | "
            f"{row.get('wrong', '')} |"
        )
    return "\n".join(lines)


def main():
    """Times everything, or one system in the process made for it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="packaged folder")
    parser.add_argument(
        "--corpus", type=Path, default=ROOT / "data" / "synthetic-commands"
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
    from peer_end_to_end_slu import check_reference

    from slu_kd_lobes.training.run_folder import one_sentence_errors

    with one_sentence_errors():
        if options.reference is not None:
            check_reference(options.reference)
        print(table(run_all(options)))


if __name__ == "__main__":
    main()
