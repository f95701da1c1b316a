"""The command line: `slu-kd`.

> slu-kd make commands.csv my_commands
> slu-kd teach my_commands more.csv
> slu-kd forget my_commands "turn on the lights"
> slu-kd package results/baseline/1234 my_model
> slu-kd classify command.wav recordings/ --model my_model
> slu-kd page --model my_model --examples recordings/
> slu-kd onnx my_model my_model.onnx
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

from slu_kd_lobes.data.audio import audio_files, read_command

try:
    import torchaudio  # noqa: F401, which SpeechBrain imports later
except OSError as error:  # compiled for CUDA, beside a torch without it
    sys.exit(
        f"error: torchaudio cannot be imported ({error}): run 'python -m "
        "slu_kd_lobes.utils.repair_torchaudio'"
    )

#: Commands of before, with their names of today.
RENAMED = {"export": "onnx", "demo": "page"}


def as_row(name, answer, slots, width):
    """A line of the table.

    Arguments
    ---------
    name : str
        The file.
    answer : dict
        See `SpokenIntentClassifier.classify_batch`, or that of
        `TypedCommands`.
    slots : list of str
        The columns.
    width : int
        Of the first column.

    Returns
    -------
    str
    """
    cells = []
    for slot in slots:
        value = answer["slots"].get(slot, "")
        if isinstance(value, dict):
            value = f"{value['value']} ({100 * value['probability']:.0f} %)"
        cells.append(value)
    if "score" in answer:
        cells.append(f"{100 * answer['score']:.0f} %")
    rejected = "rejected" if answer["rejected"] else ""
    return f"{name:<{width}}" + "".join(f"  {c:<24}" for c in cells) + rejected


def classify(options):
    """Prints the slots of every file; returns how many could not be heard."""
    files = audio_files(options.audio)
    # The name of a file may have bytes that are no text.
    sys.stdout.reconfigure(errors="backslashreplace")
    model = load_model(options.model)
    slots, failed = model.slot_names, 0
    width = max(len(name) for name in files)
    if not options.json:
        header = "".join(f"  {slot:<24}" for slot in slots)
        print(f"{'file':<{width}}{header}".rstrip())
    for name in files:
        source = io.BytesIO(sys.stdin.buffer.read()) if name == "-" else name
        try:
            wav = read_command(source, name, model.sample_rate)
            (answer,) = model.classify_batch(wav)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            failed += 1
            continue
        if options.json:
            answer.pop("probability", None)  # that of each slot is there
            for slot in answer["slots"].values():
                if isinstance(slot, dict):
                    del slot["seconds"]
            answer = {"file": name, **answer}
            print(json.dumps(answer, ensure_ascii=False), flush=True)
        else:
            print(as_row(name, answer, slots, width).rstrip(), flush=True)
    return failed


def load_model(folder):
    """The model of a folder or hub name: typed commands, or a student.

    Raises
    ------
    ValueError
        If it cannot be loaded.
    """
    from slu_kd_lobes.inference.classifier import SpokenIntentClassifier
    from slu_kd_lobes.inference.typed_commands import LIST, TypedCommands

    if (Path(folder).expanduser() / LIST).is_file():
        return TypedCommands(folder)
    return SpokenIntentClassifier.from_hparams(folder)


def make(options):
    """Makes a model of typed commands."""
    from slu_kd_lobes.inference.typed_commands import make_model

    parts = options.head, options.student
    model = make_model(options.sentences, options.out, *parts)
    print(f"model: {options.out} ({model.sentences:,} sentences)")
    return 0


def teach(options):
    """Adds typed commands to a model."""
    from slu_kd_lobes.inference.typed_commands import teach as add

    print(
        f"model: {options.model} ({add(options.model, options.sentences)} new)"
    )
    return 0


def forget(options):
    """Takes typed commands out of a model."""
    from slu_kd_lobes.inference.typed_commands import forget as remove

    remove(options.model, options.sentences)
    print(f"model: {options.model}")
    return 0


def package(options):
    """Packages a finished run."""
    from slu_kd_lobes.inference.package import package_run

    folder = package_run(
        options.run,
        options.out,
        options.keep,
        options.foreign_class,
        options.max_wrong,
    )
    print(f"model: {folder}")
    return 0


def onnx(options):
    """Writes a model as ONNX."""
    from slu_kd_lobes.inference.onnx import export_onnx

    export_onnx(load_model(options.model), options.out, options.int8)
    size = Path(options.out).stat().st_size / 2**20
    print(f"onnx: {options.out} ({size:.1f} MB)")
    return 0


def page(options):
    """Starts the web page, until it is stopped."""
    from slu_kd_lobes.utils.distribution import extra_command

    if importlib.util.find_spec("gradio") is None:
        raise ValueError(f"gradio is not installed: {extra_command('demo')}")
    examples = audio_files([options.examples])[:8] if options.examples else []
    from slu_kd_lobes.inference.web_page import build_page

    blocks = build_page(load_model(options.model), examples)
    folders = [options.examples] if options.examples else []
    # The longest command fits, at 48 kHz and in many channels.
    blocks.launch(
        server_port=options.port, allowed_paths=folders, max_file_size="100mb"
    )
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
    one = commands.add_parser("make", help="make a model of typed commands")
    one.add_argument(
        "sentences", nargs="+", help="lists, .csv; templates, .yaml"
    )
    one.add_argument("out", help="folder to be made")
    one.add_argument("--head", help="folder of another CTC head")
    one.add_argument("--student", help="packaged folder, asked after the list")
    one.set_defaults(run_command=make)
    one = commands.add_parser("teach", help="add typed commands")
    one.add_argument("model", help="folder that 'make' made")
    one.add_argument(
        "sentences", nargs="+", help="lists, .csv; templates, .yaml"
    )
    one.set_defaults(run_command=teach)
    one = commands.add_parser("forget", help="take typed commands out")
    one.add_argument("model", help="folder that 'make' made")
    one.add_argument("sentences", nargs="+", help="as they were typed")
    one.set_defaults(run_command=forget)
    one = commands.add_parser("package", help="make a model of a finished run")
    one.add_argument("run", help="output folder of the run")
    one.add_argument("out", help="folder to be made")
    threshold = one.add_mutually_exclusive_group()
    threshold.add_argument(
        "--keep",
        type=float,
        help="share of right validation answers that are not rejected (0.98)",
    )
    threshold.add_argument(
        "--max-wrong",
        type=float,
        help="in place of it, share of accepted ones that may be wrong",
    )
    one.add_argument(
        "--foreign-class",
        action="store_true",
        help="add the Python file for SpeechBrain's foreign_class",
    )
    one.set_defaults(run_command=package)
    one = commands.add_parser("onnx", help="write a model as ONNX")
    one.add_argument("model", help="packaged folder")
    one.add_argument("out", help="the .onnx file")
    one.add_argument("--int8", action="store_true", help="8-bit weights")
    one.set_defaults(run_command=onnx)
    one = commands.add_parser("page", help="start a web page")
    one.add_argument("--model", required=True, help="packaged folder")
    one.add_argument("--examples", help="folder with recordings to choose")
    one.add_argument("--port", type=int, default=7860)
    one.set_defaults(run_command=page)
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
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in RENAMED:
        new = RENAMED[arguments[0]]
        print(f"error: the command is now: slu-kd {new}", file=sys.stderr)
        return 2
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
