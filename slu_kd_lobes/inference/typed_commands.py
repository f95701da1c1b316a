"""A recogniser of commands that somebody typed; no recording is needed.

A folder holds a CTC head, which knows how letters sound, a list of sentences
with what they mean, and perhaps a student, which was trained on recordings and
is asked what the list does not know.
"""

import json
import math
import shutil
from pathlib import Path

from slu_kd_lobes.data.audio import as_waveforms, read_waveform, resample
from slu_kd_lobes.data.sentences import (
    Sentence,
    add_list,
    check_different,
    read_list,
    read_templates,
    spoken,
)
from slu_kd_lobes.inference.classifier import SpokenIntentClassifier
from slu_kd_lobes.inference.sentence_graph import Graph
from slu_kd_lobes.inference.sentence_recogniser import SentenceRecogniser
from slu_kd_lobes.utils.environment import bundled
from slu_kd_lobes.utils.files import check_writable, whole, write_json
from slu_kd_lobes.utils.fingerprints import fingerprint

#: Counts up when folders of before cannot be read any more.
FORMAT = 1
LIST = "commands.json"
HEAD, STUDENT = "head", "student"
#: Written beside a CTC head: which answers are rejected.
REJECTION = "rejection.json"


class TypedCommands:
    """Finds the typed command that is said, and its slots.

    Arguments
    ---------
    source : str or Path
        Folder that `make_model` wrote.
    device : str

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If it is damaged, or was changed by hand.
    """

    def __init__(self, source, device="cpu"):
        folder = Path(source).expanduser()
        content = read_model(folder)
        graph, self.sentences = graph_of(content)
        head = str(folder / HEAD)
        self.recogniser = SentenceRecogniser(head, graph, device)
        if self.recogniser.fingerprint != content["head"]:
            raise ValueError(
                f"the CTC head in {folder} is not the one that it was made "
                "with: make the model again"
            )
        self.threshold = content["threshold"]
        self.sample_rate = self.recogniser.sample_rate
        self.device = device
        slots = [x for mark in graph.marks for x in mark]
        self.student = None
        if (folder / STUDENT).is_dir():
            self.student = load_student(folder / STUDENT, device)
            slots += self.student.slot_names
        self.slot_names = [*dict.fromkeys(slots)]

    def classify_batch(self, wavs, sample_rate=None):
        """Finds what is said in each item of a batch.

        Arguments
        ---------
        wavs : torch.Tensor, numpy.ndarray or list
            Waveforms, [samples] or [batch, samples]; see
            `slu_kd_lobes.data.audio.as_waveforms`.
        sample_rate : int or None
            Of `wavs`, in Hz; None is that of the model.

        Returns
        -------
        list of dict
            ``answered_by``, list or student; ``wording``, the nearest one of
            the list, or None; ``slots``, values by name; ``score``, from 0 to
            1: of the list, how probable the wording is beside any letters, the
            mean of a letter; of the student, its probability; and
            ``rejected``, whether neither is sure.

        Raises
        ------
        ValueError
            If an item of the batch is no audio.
        """
        wavs = as_waveforms(wavs)
        if sample_rate is not None:
            wavs = resample(wavs, sample_rate, self.sample_rate)
        found = self.recogniser(wavs.to(self.device))
        return [self._answer(x, wav) for x, wav in zip(found, wavs)]

    def classify_file(self, path):
        """Finds what is said in an audio file; see `classify_batch`.

        Arguments
        ---------
        path : str or Path
            Any file that libsndfile reads, at any rate, with any channels.
        """
        return self.classify_batch(read_waveform(path, self.sample_rate))[0]

    def _answer(self, found, wav):
        """The list's, or where that is not sure the student's, if it is."""
        answer = {"answered_by": "list", "wording": None, "slots": {}}
        score = 0.0
        if found is not None:
            score = sureness(found)
            answer |= {"wording": found.text, "slots": found.slots}
        rejected = score < self.threshold
        if rejected and self.student is not None:
            (other,) = self.student.classify_batch(wav)
            if not other["rejected"]:
                slots = other["slots"].items()
                answer |= {
                    "answered_by": "student",
                    "slots": {name: slot["value"] for name, slot in slots},
                }
                score, rejected = other["probability"], False
        return {**answer, "score": round(score, 6), "rejected": rejected}


def load_student(folder, device="cpu"):
    """A packaged student; see `SpokenIntentClassifier.from_hparams`."""
    options = {"device": device}
    return SpokenIntentClassifier.from_hparams(str(folder), run_opts=options)


def sureness(found):
    """How probable a sentence is beside any letters: the mean of a letter.

    Arguments
    ---------
    found : slu_kd_lobes.inference.sentence_graph.Found

    Returns
    -------
    float
        From 0 to 1.
    """
    return math.exp(found.ratio / len(found.text))


def graph_of(content):
    """The graph of a model's sentences, and how many they are.

    Arguments
    ---------
    content : dict
        See `read_model`.
    """
    graph = Graph()
    listed = [Sentence(*row, LIST) for row in content["sentences"]]
    add_list(graph, listed)
    count = len(listed)
    for name, text in content["templates"].items():
        count += read_templates(name, text).add_to(graph)
    return graph, count


def read_model(folder):
    """What a folder of `make_model` says.

    Arguments
    ---------
    folder : str or Path

    Returns
    -------
    dict
        ``sentences``, pairs of text and slots; ``templates``, texts by name;
        ``threshold``; and ``head``, a fingerprint.

    Raises
    ------
    FileNotFoundError, ValueError
        See `TypedCommands`.
    """
    path = Path(folder) / LIST
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no typed commands (it has no {LIST}): give a "
            "folder that 'slu-kd make' made"
        )
    try:
        content = json.loads(path.read_bytes())
        seal, known = content.pop("sha256"), content.pop("format")
    except (UnicodeError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: make the model again") from error
    if known != FORMAT:
        raise ValueError(
            f"{folder} was made by another version of slu_kd_lobes: make it "
            "again with this one"
        )
    if seal != _seal(content):
        raise ValueError(
            f"{path} was changed by hand: use 'slu-kd teach' and 'slu-kd "
            "forget', or make the model again"
        )
    return content


def write_model(folder, content):
    """Writes what `read_model` reads, if its sentences can be told apart."""
    check_different([Sentence(*row, LIST) for row in content["sentences"]])
    graph_of(content)  # refuses what cannot be said
    sealed = {**content, "format": FORMAT, "sha256": _seal(content)}
    write_json(Path(folder) / LIST, sealed)


def _seal(content):
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return fingerprint(text.encode())


def typed(files):
    """What is typed in files.

    Arguments
    ---------
    files : list of str
        Lists, CSV, or templates, YAML; see `slu_kd_lobes.data.sentences`.

    Returns
    -------
    sentences : list of Sentence
    templates : dict
        Texts by the name of the file.
    """
    sentences, templates = [], {}
    for file in map(Path, files):
        if not file.is_file():
            raise FileNotFoundError(
                f"there is no file {file}: correct its name"
            )
        if file.suffix == ".csv":
            sentences += read_list(file)
        elif file.suffix in (".yaml", ".yml"):
            templates[file.name] = file.read_text("utf-8")
            read_templates(file)
        else:
            raise ValueError(
                f"{file} is neither a list, .csv, nor a file of templates, .yaml"
            )
    check_different(sentences)
    return sentences, templates


def default_head():
    """The CTC head that comes with the project."""
    return bundled("pretrained/ctc-read-speech")


def make_model(files, out, head=None, student=None):
    """Makes a model of typed commands; whole or not at all.

    Arguments
    ---------
    files : list of str
        See `typed`.
    out : str or Path
        The folder to be made.
    head : str or None
        Folder of a CTC head, such as recipes/LibriSpeech/CTC-head trains;
        None: the one that comes with the project.
    student : str or None
        Folder of a packaged student, which is asked what the list does not
        know.

    Returns
    -------
    TypedCommands

    Raises
    ------
    ValueError
        If a line cannot be used, or the folder is there already.
    """
    out, head = Path(out), Path(head or default_head())
    if out.exists():
        raise ValueError(f"{out} exists: choose another folder, or delete it")
    sentences, templates = typed(files)
    if not sentences and not templates:
        raise ValueError("there is no sentence: name a file with one")
    content = {
        "sentences": [[x.text, x.slots] for x in sentences],
        "templates": templates,
        "threshold": json.loads((head / REJECTION).read_text())["threshold"],
        "head": SentenceRecogniser(str(head), Graph()).fingerprint,
    }
    if student is not None:
        load_student(student)  # refuses what is none
    check_writable(out.parent, 20)
    with whole(out) as part:
        shutil.copytree(head, part / HEAD)
        if student is not None:
            shutil.copytree(student, part / STUDENT)
        write_model(part, content)
    return TypedCommands(out)


def teach(folder, files):
    """Adds sentences to a model; it becomes what all of them would have made.

    Arguments
    ---------
    folder : str or Path
    files : list of str
        See `typed`.

    Returns
    -------
    int
        How many sentences were added; templates count as one.
    """
    content = read_model(folder)
    sentences, templates = typed(files)
    known = [Sentence(*row, f"{folder}") for row in content["sentences"]]
    check_different([*known, *sentences])
    content["sentences"] += [[x.text, x.slots] for x in sentences]
    content["templates"] |= templates
    write_model(folder, content)
    return len(sentences) + len(templates)


def forget(folder, texts):
    """Takes sentences out of a model.

    Arguments
    ---------
    folder : str or Path
    texts : list of str
        Sentences, or names of files with templates.

    Raises
    ------
    ValueError
        If it does not know one of them, or none would be left.
    """
    content = read_model(folder)
    for text in texts:
        if text in content["templates"]:
            del content["templates"][text]
            continue
        said = spoken(text)
        kept = [row for row in content["sentences"] if row[0] != said]
        if len(kept) == len(content["sentences"]):
            raise ValueError(f"{folder} does not know '{said}': check its list")
        content["sentences"] = kept
    if not content["sentences"] and not content["templates"]:
        raise ValueError(
            f"{folder} would know nothing any more: delete the folder instead"
        )
    write_model(folder, content)
