#!/usr/bin/env python3
"""Writes the CSV files of IEMOCAP, in the layout of Fluent Speech Commands.

Four emotions, as is usual: anger, happiness (with excitement), neutral and
sadness, 5,531 utterances. One speaker is tested, the other one of the same
session validates, and the eight others train, as in SpeechBrain's recipe; ten
runs test every speaker.

To run this recipe:
> python prepare.py /path/to/IEMOCAP_full_release folds/1 --test_speaker=1
> python train.py hparams/emotion.yaml --csv_folder=folds/1 \
>     --data_folder=/path/to/IEMOCAP_full_release

Corpus: Busso et al. 2008, "IEMOCAP: Interactive emotional dyadic motion capture
database".

Authors
 * slu_kd_lobes authors
"""

import argparse
import re
from pathlib import Path

from slu_kd_lobes.training.run_folder import one_sentence_errors
from slu_kd_lobes.utils.files import write_csv

EMOTIONS = {
    "ang": "anger",
    "hap": "happiness",
    "exc": "happiness",
    "neu": "neutral",
    "sad": "sadness",
}
UTTERANCES = 5531
SESSIONS = 5

# [6.2901 - 8.2357]	Ses01F_impro01_F000	neu	[2.5000, 2.5000, 2.5000]
EVALUATION = re.compile(r"^\[[\d. -]+\]\t(\w+)\t([a-z]{3})\t", re.MULTILINE)
# Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me.
TRANSCRIPT = re.compile(r"^(\w+) \[[\d.-]+\]: *(.*)$", re.MULTILINE)


def read_session(data_folder, number):
    """Utterances of the four emotions in one session.

    Arguments
    ---------
    data_folder : Path
        With the folders Session1 to Session5.
    number : int
        1 to 5.

    Returns
    -------
    list of dict
        ``path``, ``speakerId`` (1 to 10; the woman has the odd number),
        ``transcription`` and ``emotion``, in the order of the paths.

    Raises
    ------
    FileNotFoundError
        If the session is not there.
    ValueError
        If an utterance has no transcript.
    """
    session = data_folder / f"Session{number}"
    dialogs = sorted((session / "dialog" / "EmoEvaluation").glob("[!.]*.txt"))
    if not dialogs:
        raise FileNotFoundError(
            f"There is no {session}/dialog/EmoEvaluation/*.txt: give the folder "
            "IEMOCAP_full_release"
        )
    rows = []
    for dialog in dialogs:
        name = dialog.stem
        said_in = session / "dialog" / "transcriptions" / f"{name}.txt"
        said = dict(TRANSCRIPT.findall(said_in.read_text("utf-8")))
        for turn, emotion in EVALUATION.findall(dialog.read_text("utf-8")):
            if emotion not in EMOTIONS:
                continue
            if turn not in said:
                raise ValueError(f"{said_in} does not say what {turn} says")
            wav = session / "sentences" / "wav" / name / f"{turn}.wav"
            is_man = turn.rsplit("_", 1)[1][0] == "M"
            rows.append(
                {
                    "path": wav.relative_to(data_folder).as_posix(),
                    "speakerId": 2 * number - 1 + is_man,
                    "transcription": said[turn].strip(),
                    "emotion": EMOTIONS[emotion],
                }
            )
    return sorted(rows, key=lambda row: row["path"])


def prepare_iemocap(data_folder, csv_folder, test_speaker, complete=True):
    """Writes ``train``, ``valid`` and ``test_data.csv``.

    Arguments
    ---------
    data_folder : str or Path
        IEMOCAP_full_release.
    csv_folder : str or Path
        Where the files are written.
    test_speaker : int
        1 to 10; speakers 1 and 2 are of the first session, and so on.
    complete : bool
        Whether any other number of utterances than the corpus has is refused.

    Raises
    ------
    FileNotFoundError
        If a session is not there.
    ValueError
        If there is no such speaker, or the corpus is not complete.
    """
    if test_speaker not in range(1, 2 * SESSIONS + 1):
        raise ValueError(f"test_speaker must be 1 to 10, not {test_speaker}")
    rows = []
    for number in range(1, SESSIONS + 1):
        rows += read_session(Path(data_folder), number)
    if complete and len(rows) != UTTERANCES:
        raise ValueError(
            f"{data_folder} has {len(rows)} utterances of the four emotions, "
            f"and IEMOCAP {UTTERANCES}: unpack it again, or give --incomplete"
        )
    other = test_speaker + 1 if test_speaker % 2 else test_speaker - 1
    splits = {test_speaker: "test", other: "valid"}
    for name in ("train", "valid", "test"):
        part = [r for r in rows if splits.get(r["speakerId"], "train") == name]
        write_csv(Path(csv_folder) / f"{name}_data.csv", part)
        print(f"{name}: {len(part)} utterances")


def main():
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data_folder", help="IEMOCAP_full_release")
    parser.add_argument("csv_folder", help="where the files are written")
    parser.add_argument("--test_speaker", type=int, default=1, help="1 to 10")
    parser.add_argument("--incomplete", action="store_true")
    options = parser.parse_args()
    folders = options.data_folder, options.csv_folder
    with one_sentence_errors():
        prepare_iemocap(*folders, options.test_speaker, not options.incomplete)


if __name__ == "__main__":
    main()
