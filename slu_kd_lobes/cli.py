"""The command line: `slu-kd`.

> slu-kd package results/baseline/1234 my_model
> slu-kd classify command.wav recordings/ --model my_model
> slu-kd demo --model my_model --examples recordings/
> slu-kd export my_model my_model.onnx
> sox -d -t wav - | slu-kd classify - --model my_model --json
"""

import argparse
import importlib.util
import io
import json
import logging
import os
import sys
from pathlib import Path

try:
    from speechbrain.dataio import audio_io
except OSError as error:  # compiled for CUDA, beside a torch without it
    sys.exit(
        f"error: torchaudio cannot be imported ({error}): run 'python -m "
        "slu_kd_lobes.repair_torchaudio'"
    )

AUDIO = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au")
LONGEST = 30.0  # seconds; a command takes a few
SILENCE = 1e-4  # loudest sample of what is called silent, of 1


def audio_files(arguments):
    """Every file that is meant; folders are searched.

    Arguments
    ---------
    arguments : list of str
        Files, folders, or ``-`` for standard input.

    Returns
    -------
    list of str

    Raises
    ------
    ValueError
        If a folder has no audio file.
    """
    files = []
    for argument in arguments:
        path = Path(argument)
        if argument == "-" or not path.is_dir():
            files.append(argument)
            continue
        found = sorted(
            str(file)
            for file in path.rglob("*")
            if file.suffix.lower() in AUDIO and file.is_file()
        )
        if not found:
            raise ValueError(
                f"{argument} has no audio files ({', '.join(AUDIO)})"
            )
        files += found
    return files


def check_audio(source, name):
    """Refuses what no command can be heard in.

    Arguments
    ---------
    source : str or io.BytesIO
        Path or content of an audio file.
    name : str
        What to call it.

    Raises
    ------
    ValueError
        If it is missing, damaged, empty, silent or too long.
    """
    if isinstance(source, str) and not Path(source).is_file():
        raise ValueError(f"{name}: there is no such file")
    try:
        info = audio_io.info(source)
        seconds = info.num_frames / info.sample_rate
        if seconds > LONGEST:
            raise ValueError(
                f"{name}: {seconds:.0f} s long, and a command takes at most "
                f"{LONGEST:.0f} s: cut it into single commands"
            )
        if isinstance(source, io.BytesIO):
            source.seek(0)
        wav, _ = audio_io.load(source)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{name}: not audio that can be read") from error
    if wav.numel() == 0:
        raise ValueError(f"{name}: has no samples")
    if not wav.isfinite().all():
        raise ValueError(f"{name}: has samples that are not numbers")
    if wav.abs().max() < SILENCE:
        raise ValueError(f"{name}: is silent")
    if isinstance(source, io.BytesIO):
        source.seek(0)


def as_row(name, answer, slots, width):
    """A line of the table.

    Arguments
    ---------
    name : str
        The file.
    answer : dict
        See `SpokenIntentClassifier.classify_batch`.
    slots : list of str
        The columns.
    width : int
        Of the first column.

    Returns
    -------
    str
    """
    cells = [
        f"{answer['slots'][slot]['value']} "
        f"({100 * answer['slots'][slot]['probability']:.0f} %)"
        for slot in slots
    ]
    rejected = "rejected" if answer["rejected"] else ""
    return f"{name:<{width}}" + "".join(f"  {c:<24}" for c in cells) + rejected


def classify(options):
    """Prints the slots of every file; returns how many could not be heard."""
    files = audio_files(options.audio)
    model = load_model(options.model)
    slots, failed = model.schema.names, 0
    width = max(len(name) for name in files)
    if not options.json:
        header = "".join(f"  {slot:<24}" for slot in slots)
        print(f"{'file':<{width}}{header}".rstrip())
    for name in files:
        source = io.BytesIO(sys.stdin.buffer.read()) if name == "-" else name
        try:
            check_audio(source, name)
            answer = model.classify_file(source)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            failed += 1
            continue
        if options.json:
            kept = {
                slot: {key: value[key] for key in ("value", "probability")}
                for slot, value in answer["slots"].items()
            }
            answer = {
                "file": name,
                "slots": kept,
                "rejected": answer["rejected"],
            }
            print(json.dumps(answer, ensure_ascii=False), flush=True)
        else:
            print(as_row(name, answer, slots, width).rstrip(), flush=True)
    return failed


def load_model(folder):
    """The packaged model of a folder or hub name.

    Raises
    ------
    ValueError
        If it cannot be loaded.
    """
    from slu_kd_lobes.hub import readable_source
    from slu_kd_lobes.interface import SpokenIntentClassifier

    remedy = "give a folder that 'slu-kd package' made"
    with readable_source("model", folder, remedy):
        return SpokenIntentClassifier.from_hparams(folder)


def package(options):
    """Packages a finished run."""
    from slu_kd_lobes.package import package_run

    print(f"model: {package_run(options.run, options.out, options.keep)}")
    return 0


def export(options):
    """Writes a model as ONNX."""
    from slu_kd_lobes.onnx import export_onnx

    export_onnx(load_model(options.model), options.out, options.int8)
    size = Path(options.out).stat().st_size / 2**20
    print(f"onnx: {options.out} ({size:.1f} MB)")
    return 0


def demo(options):
    """Starts the web page, until it is stopped."""
    if importlib.util.find_spec("gradio") is None:
        raise ValueError(
            "gradio is not installed: pip install slu-kd-lobes[demo]"
        )
    examples = audio_files([options.examples])[:8] if options.examples else []
    from slu_kd_lobes.demo import build_page

    page = build_page(load_model(options.model), examples)
    folders = [options.examples] if options.examples else []
    page.launch(server_port=options.port, allowed_paths=folders)
    return 0


def parse_arguments(arguments):
    """The command line."""
    parser = argparse.ArgumentParser(
        "slu-kd", description="Spoken commands to slots."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    one = commands.add_parser("classify", help="fill the slots of recordings")
    one.add_argument("audio", nargs="+", help="files, folders, or - for stdin")
    one.add_argument("--model", required=True, help="packaged folder")
    one.add_argument("--json", action="store_true", help="one object a line")
    one.set_defaults(run_command=classify)
    one = commands.add_parser("package", help="make a model of a finished run")
    one.add_argument("run", help="output folder of the run")
    one.add_argument("out", help="folder to be made")
    one.add_argument(
        "--keep",
        type=float,
        default=0.98,
        help="share of right validation answers that are not rejected",
    )
    one.set_defaults(run_command=package)
    one = commands.add_parser("export", help="write a model as ONNX")
    one.add_argument("model", help="packaged folder")
    one.add_argument("out", help="the .onnx file")
    one.add_argument("--int8", action="store_true", help="8-bit weights")
    one.set_defaults(run_command=export)
    one = commands.add_parser("demo", help="start a web page")
    one.add_argument("--model", required=True, help="packaged folder")
    one.add_argument("--examples", help="folder with recordings to choose")
    one.add_argument("--port", type=int, default=7860)
    one.set_defaults(run_command=demo)
    return parser.parse_args(arguments)


def main(arguments=None):
    """Runs a command.

    Arguments
    ---------
    arguments : list of str or None
        None for those of the process.

    Returns
    -------
    int
        The exit code: 0, 1 if a recording could not be heard, 2 if nothing
        could be done.
    """
    options = parse_arguments(arguments)
    logging.getLogger("speechbrain").setLevel(logging.WARNING)
    try:
        return int(options.run_command(options) > 0)
    except BrokenPipeError:  # whoever read the answers has enough of them
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
