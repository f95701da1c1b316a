"""Data preparation: what it writes, when it works again, what it refuses."""

import csv
import importlib.util
import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from running import CORPUS, run
from speechbrain.dataio import audio_io
from speechbrain.dataio.dataset import DynamicItemDataset

from slu_kd_lobes.data.manifests import Manifests
from slu_kd_lobes.data.slots import SlotSchema
from slu_kd_lobes.data.transcripts import normalise_transcript
from slu_kd_lobes.teachers.tables import TextModel
from slu_kd_lobes.utils.files import write_csv

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
SLOTS = ["action", "object", "location"]
HEADER = ["", "path", "speakerId", "transcription", *SLOTS]


def load_recipe_module():
    """Imports prepare.py, whose folder is no package."""
    path = ROOT / "recipes" / "fluent-speech-commands" / "prepare.py"
    spec = importlib.util.spec_from_file_location("fsc_prepare", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


prepare = load_recipe_module()


class Corpus:
    """A small corpus of the layout of Fluent Speech Commands.

    Arguments
    ---------
    folder : Path
        Its data_folder.
    """

    COMMANDS = [
        ("Turn on the lights", "activate", "lights", "none"),
        ("Switch off the “kitchen” lights", "deactivate", "lights", "kitchen"),
        ("It’s too loud, turn it down", "decrease", "volume", "none"),
        ("Bring me $5 in the $kitchen", "bring", "none", "kitchen"),
    ]

    def __init__(self, folder):
        self.folder = folder
        self.save = folder.parent / "save"
        self.csv_folder = folder / "data"
        self.header = list(HEADER)
        self.rows = {}
        self.add("train", ["anna", "ben", "carl"])
        self.add("valid", ["dora"])
        self.add("test", ["emil"])
        self.write()

    def add(self, split, speakers, commands=None):
        """Adds every command by every speaker to a split, with its audio."""
        rows = self.rows.setdefault(split, [])
        for speaker in speakers:
            for text, *values in commands or self.COMMANDS:
                path = f"wavs/speakers/{speaker}/{split}-{len(rows):03}.wav"
                self.add_audio(path, seconds=0.01 * (len(rows) + 1))
                row = [len(rows), path, speaker, text, *values]
                rows.append(dict(zip(HEADER, row)))

    def add_audio(self, path, seconds=0.01, rate=16000, channels=1, **options):
        """Writes a quiet noise below the data folder."""
        path = self.folder / path
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (round(seconds * rate), channels)
        noise = np.random.default_rng(0).normal(0, 0.01, shape)
        soundfile.write(path, noise, rate, **options)

    def write(self):
        """Writes the CSV files of the rows as they are now."""
        self.csv_folder.mkdir(parents=True, exist_ok=True)
        for split, rows in self.rows.items():
            with open(
                self.csv(split), "w", newline="", encoding="utf-8"
            ) as file:
                writer = csv.DictWriter(
                    file, self.header, restval="x", extrasaction="ignore"
                )
                writer.writeheader()
                writer.writerows(rows)

    def csv(self, split):
        return self.csv_folder / f"{split}_data.csv"

    def set(self, split, row, column, value):
        """Changes a cell, `row` as a spreadsheet shows it, and writes."""
        self.rows[split][row - 2][column] = value
        self.write()

    def prepare(self, **options):
        options = {"slots": SLOTS, "save_folder": self.save, **options}
        return prepare.prepare_fsc(self.folder, **options)

    @property
    def manifests(self):
        """The folder of the only preparation so far."""
        (folder,) = self.save.iterdir()
        return folder

    def written(self):
        """Returns the content of all files of the only preparation so far."""
        files = self.manifests.iterdir()
        return {path.name: path.read_bytes() for path in files}


@pytest.fixture
def corpus(tmp_path):
    return Corpus(tmp_path / "corpus")


@pytest.fixture
def log(caplog):
    """The messages of the log, as one text on demand."""
    caplog.set_level(logging.INFO)

    def messages():
        text = "\n".join(record.getMessage() for record in caplog.records)
        caplog.clear()
        return text

    return messages


def read_manifest(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def ids(path):
    return [row["ID"] for row in read_manifest(path)]


# What is written


def test_a_manifest_has_a_row_for_each_utterance(corpus):
    manifests = corpus.prepare()
    rows = read_manifest(manifests.splits["train"])
    assert list(rows[0]) == [
        *("ID", "duration", "wav", "spk_id", "transcription"),
        *SLOTS,
    ]
    assert len(rows) == 12
    assert rows[1] == {
        "ID": "wavs--speakers--anna--train-001",
        "duration": "0.02",
        "wav": "$data_root/wavs/speakers/anna/train-001.wav",
        "spk_id": "anna",
        "transcription": "Switch off the “kitchen” lights",
        "action": "deactivate",
        "object": "lights",
        "location": "kitchen",
    }
    assert len(read_manifest(manifests.splits["valid"])) == 4
    assert len(read_manifest(manifests.splits["test"])) == 4


def test_speechbrain_reads_the_manifests(corpus):
    manifests = corpus.prepare()
    data = DynamicItemDataset.from_csv(
        manifests.splits["train"],
        replacements={"data_root": str(corpus.folder)},
    )
    data.set_output_keys(["id", "wav", "duration", "transcription", *SLOTS])
    schema = manifests.schema
    for item, row in zip(data, corpus.rows["train"]):
        signal, rate = audio_io.load(item["wav"])
        assert signal.shape[-1] / rate == pytest.approx(item["duration"])
        assert schema.decode(schema.encode(item)) == {
            name: row[name] for name in SLOTS
        }
        # Also of "$5", in which SpeechBrain sees a variable of its own.
        assert normalise_transcript(
            item["transcription"]
        ) == normalise_transcript(row["transcription"])


def test_the_schema_is_sorted_and_does_not_depend_on_rows(corpus):
    manifests = corpus.prepare()
    expected = {
        "action": ["activate", "bring", "deactivate", "decrease"],
        "object": ["lights", "none", "volume"],
        "location": ["kitchen", "none"],
    }
    assert manifests.schema.values == expected
    for rows in corpus.rows.values():
        rows.reverse()
    corpus.write()
    before = corpus.written()
    corpus.prepare()
    after = corpus.written()
    assert before.pop("prepare.json") != after.pop("prepare.json")
    assert before == after


def test_values_of_a_test_set_alone_are_in_the_schema(corpus):
    corpus.set("test", 2, "object", "shoes")
    manifests = corpus.prepare()
    assert "shoes" in manifests.schema.values["object"]


def test_the_schema_does_not_depend_on_the_choice_of_test_sets(corpus):
    corpus.add("far_test", ["fred"], [("Shoes", "bring", "shoes", "none")])
    corpus.write()
    manifests = corpus.prepare(test_splits=["test"])
    assert manifests.tests == ["test"]
    assert "shoes" in manifests.schema.values["object"]


def test_given_values_keep_their_order(corpus):
    values = ["volume", "lights", "shoes", "none"]
    manifests = corpus.prepare(slot_values={"object": values})
    schema = manifests.schema
    assert schema.names == SLOTS
    assert schema.values["object"] == values
    assert schema.values["location"] == ["kitchen", "none"]


def test_joint_intents_are_the_combinations_that_occur(corpus):
    """One class each, in the order of the slots; those of tests alone, too."""
    corpus.add("utt_test", ["emma"], [("Shoes", "bring", "shoes", "none")])
    corpus.write()
    manifests = corpus.prepare(joint_intents=True, test_splits=["test"])
    assert manifests.schema.values == {
        "intent": [
            "activate | lights | none",
            "bring | none | kitchen",
            "bring | shoes | none",
            "deactivate | lights | kitchen",
            "decrease | volume | none",
        ]
    }
    rows = {row["transcription"]: row for row in manifests.read("train")}
    row = rows["Switch off the “kitchen” lights"]
    assert manifests.schema.encode(row) == [3]
    assert "action" not in row
    few = corpus.prepare(joint_intents=True, slots=["location", "action"])
    assert few.schema.values["intent"][0] == "kitchen | bring"


def test_joint_intents_of_a_test_set_alone_are_named(corpus, log):
    """Each value is known, and their combination was never heard."""
    unheard = [("Lights up", "activate", "lights", "kitchen")]
    corpus.add("test", ["emma"], unheard)
    corpus.write()
    corpus.prepare(joint_intents=True)
    no_example = "has no example of ['activate | lights | kitchen']"
    assert no_example in log()
    corpus.prepare()
    assert "has no example" not in log()


def test_columns_are_read_by_name(corpus):
    corpus.prepare()
    before = corpus.written()
    corpus.header = ["location", "speakerId", "object", "extra", "path", ""]
    corpus.header += ["transcription", "action"]
    corpus.write()
    corpus.prepare()
    after = corpus.written()
    del before["prepare.json"], after["prepare.json"]
    assert before == after


def test_any_columns_can_be_slots(corpus):
    manifests = corpus.prepare(slots=["location"])
    assert list(read_manifest(manifests.splits["train"])[0])[5:] == ["location"]
    assert manifests.schema.sizes == [2]


def test_a_path_may_be_absolute(corpus, tmp_path):
    """If it leads into the data folder, by way of a link or not."""
    expected = corpus.prepare()
    before = corpus.written()
    link = tmp_path / "link"
    link.symlink_to(corpus.folder)
    paths = [row["path"] for row in corpus.rows["train"]]
    for folder in (corpus.folder, link, f"{corpus.folder}/data/.."):
        for row, path in zip(corpus.rows["train"], paths):
            row["path"] = f"{folder}/{path}"
        corpus.write()
        assert corpus.prepare() == expected
        after = corpus.written()
        assert {**after, "prepare.json": before["prepare.json"]} == before


def test_a_spreadsheets_byte_order_mark_and_spaces_do_no_harm(corpus):
    corpus.header = HEADER[1:]
    corpus.write()
    expected = read_manifest(corpus.prepare().splits["train"])
    path = corpus.csv("train")
    text = path.read_text(encoding="utf-8").replace(",none", ", none ")
    text = text.replace("too loud", "too\nloud").replace("\r\n", "\r\n\r\n")
    # The mark would be part of the first column's name.
    path.write_bytes(b"\xef\xbb\xbf" + text.encode("utf-8"))
    assert read_manifest(corpus.prepare().splits["train"]) == expected


@pytest.mark.parametrize(
    "name, options",
    [
        ("a.flac", {}),
        ("a.ogg", {}),
        ("b.ogg", {"format": "OGG", "subtype": "OPUS"}),
    ],
)
def test_audio_may_be_flac_or_ogg(corpus, name, options):
    corpus.add_audio(name, seconds=0.5, **options)
    corpus.set("train", 2, "path", name)
    rows = read_manifest(corpus.prepare().splits["train"])
    assert (rows[0]["ID"], rows[0]["duration"]) == (name[0], "0.5")


def test_an_id_is_the_same_in_every_split_file(corpus):
    train = ids(corpus.prepare().splits["train"])
    corpus.rows["train"], corpus.rows["test"] = (
        corpus.rows["test"],
        corpus.rows["train"],
    )
    corpus.write()
    assert ids(corpus.prepare().splits["test"]) == train


def test_other_rates_and_stereo_are_counted_and_left(corpus, log):
    corpus.add_audio("rate.wav", seconds=0.5, rate=8000)
    corpus.add_audio("stereo.wav", seconds=0.5, channels=2)
    corpus.add_audio("both.wav", seconds=0.5, rate=44100, channels=2)
    for row, name in enumerate(["rate", "stereo", "both"], start=2):
        corpus.set("train", row, "path", f"{name}.wav")
    rows = read_manifest(corpus.prepare().splits["train"])
    assert (
        "Of 20 audio files, 2 are not at 16000 Hz and 2 are not mono" in log()
    )
    durations = {row["ID"]: row["duration"] for row in rows}
    assert [durations[x] for x in ("rate", "stereo", "both")] == ["0.5"] * 3
    corpus.prepare(sample_rate=8000)
    assert "19 are not at 8000 Hz" in log()


# Splits


def test_the_main_test_set_comes_first(corpus):
    speakers = iter("fghijk")

    def add(name):
        corpus.add(name, [next(speakers)])
        corpus.write()
        manifests = corpus.prepare()
        assert manifests.tests[0] == manifests.main_test
        return manifests.tests

    del corpus.rows["test"]
    corpus.csv("test").unlink()
    assert add("utt_test") == ["utt_test"]
    assert add("both_test") == ["both_test", "utt_test"]
    assert add("spk_test") == ["spk_test", "both_test", "utt_test"]
    assert add("test") == ["test", "both_test", "spk_test", "utt_test"]


def test_given_test_sets_keep_their_order(corpus):
    corpus.add("spk_test", ["fred"])
    corpus.add("dev2", ["gina"])
    corpus.write()
    manifests = corpus.prepare(test_splits=["dev2", "test"])
    assert manifests.tests == ["dev2", "test"]
    assert manifests.main_test == "dev2"
    assert not (manifests.folder / "spk_test.csv").exists()
    # A command line gives a lone name.
    assert corpus.prepare(test_splits="test").main_test == "test"


def test_other_csv_files_are_no_test_sets(corpus):
    for name in ("latest_data.csv", "._test_data.csv", "test_data.csv.bak"):
        (corpus.csv_folder / name).write_bytes(b"\xff")
    assert corpus.prepare().tests == ["test"]


def test_published_unseen_splits_pass(tmp_path, log):
    """Arora et al.: other names, another column, valid voices in train."""
    corpus = Corpus(tmp_path / "corpus")
    corpus.csv_folder = tmp_path / "unseen"
    corpus.header.insert(1, "Unnamed: 0")
    corpus.rows["speaker_test"] = corpus.rows.pop("test")
    corpus.add("valid", ["anna"])
    new = [("Language settings", "change language", "none", "none")]
    corpus.add("utterance_test", ["anna", "ben", "dora"], new)
    corpus.write()
    manifests = corpus.prepare(csv_folder=str(corpus.csv_folder))
    assert manifests.tests == ["speaker_test", "utterance_test"]
    messages = log()
    assert "1 speakers of valid are also in train." in messages
    assert "2 speakers of utterance_test are also in train." in messages
    assert "2 speakers of utterance_test are also in valid." in messages
    assert "speaker_test are" not in messages
    values = manifests.schema.values["action"]
    assert "change language" in values


def test_test_sets_may_share_utterances(corpus):
    corpus.rows["hard_test"] = corpus.rows["test"][:2]
    corpus.write()
    manifests = corpus.prepare()
    assert (
        ids(manifests.splits["hard_test"]) == ids(manifests.splits["test"])[:2]
    )


@pytest.mark.parametrize("test", ["test", "spk_test", "speaker_test"])
@pytest.mark.parametrize("learnt, voice", [("train", "ben"), ("valid", "dora")])
def test_a_test_set_of_new_voices_must_keep_them(corpus, test, learnt, voice):
    corpus.add(test, [voice])
    corpus.write()
    with pytest.raises(ValueError) as error:
        corpus.prepare(test_splits=[test])
    for part in (f"{test}_data.csv", f"'{voice}'", f"{learnt}_data.csv, row"):
        assert part in str(error.value)
    assert not corpus.save.exists()


def test_validation_voices_of_the_original_split_are_new(corpus):
    corpus.add("valid", ["anna"])
    corpus.write()
    with pytest.raises(
        ValueError, match=r"valid_data.csv, row 6: .*'anna'.*train_data.csv, r"
    ):
        corpus.prepare()


def test_shared_speakers_can_be_meant(corpus, log):
    corpus.add("test", ["anna"])
    corpus.write()
    corpus.prepare(shared_speakers=True)
    assert "1 speakers of test are also in train, so that its error" in log()


def test_the_message_of_shared_speakers_is_what_is_typed(corpus):
    corpus.add("test", ["anna"])
    corpus.write()
    with pytest.raises(ValueError, match="add --shared_speakers=True if"):
        corpus.prepare()


def test_one_speaker_can_be_all(corpus, log):
    """Somebody's own recordings, in every split."""
    for rows in corpus.rows.values():
        for row in rows:
            row["speakerId"] = "me"
    corpus.write()
    with pytest.raises(ValueError, match="row 2: the speaker 'me' is also in"):
        corpus.prepare()
    manifests = corpus.prepare(shared_speakers=True)
    speakers = {
        r["spk_id"] for s in manifests.splits for r in manifests.read(s)
    }
    assert speakers == {"me"}
    messages = log()
    for split, other in (("valid", "train"), ("test", "train")):
        shared = f"1 speakers of {split} are also in {other}, so that its error"
        assert shared in messages


# Without transcripts


def without_transcripts(corpus, *splits):
    """Empties the column of some splits."""
    for split in splits:
        for row in corpus.rows[split]:
            row["transcription"] = " "
    corpus.write()


def test_a_corpus_may_have_no_transcripts(corpus, log):
    """The column is empty, or it is not there."""
    full = {s: ids(p) for s, p in corpus.prepare().splits.items()}
    log()
    written = []
    for absent in (False, True):
        without_transcripts(corpus, "train", "valid", "test")
        corpus.header = [
            n for n in HEADER if n != "transcription" or not absent
        ]
        corpus.write()
        manifests = corpus.prepare()
        assert "There are no transcripts (column 'transcription')" in log()
        assert {s: ids(p) for s, p in manifests.splits.items()} == full
        assert {r["transcription"] for r in manifests.read("train")} == {""}
        assert read_manifest(manifests.folder / "text.csv") == []
        for split in ("text", "train", "valid", "test"):
            assert manifests.transcripts(split) == {}
        written.append(corpus.written())
        del written[-1]["prepare.json"]
    assert written[0] == written[1]


def test_a_test_set_may_have_no_transcripts(corpus, log):
    without_transcripts(corpus, "test")
    manifests = corpus.prepare()
    assert "in test: what reads text" in log()
    assert len(manifests.transcripts()) == 4
    assert manifests.transcripts("test") == {}


def test_only_what_reads_text_needs_transcripts(tmp_path):
    """From the command line: one person's recordings, without any text."""
    folder = tmp_path / "corpus"
    for split in ("train", "valid", "test"):
        rows = read_manifest(CORPUS / "data" / f"{split}_data.csv")[:12]
        for row in rows:
            del row["transcription"]
            row.update(path=CORPUS / row["path"], speakerId="me")
        write_csv(folder / "data" / f"{split}_data.csv", rows)
    # The paths in the files are absolute, and lead into the corpus.
    options = {
        "data_folder": CORPUS,
        "csv_folder": folder / "data",
        "shared_speakers": True,
        "manifest_folder": tmp_path / "manifests",
    }
    training = {"feature_folder": tmp_path / "features", "number_of_epochs": 1}
    for config, script, message in (
        ("baseline", "train.py", None),
        ("cascade", "cascade.py", "error: The cascade reads transcripts, and"),
    ):
        output = run(
            config,
            {
                **options,
                **(training if script == "train.py" else {}),
                "output_folder": tmp_path / config,
            },
            fails=message is not None,
            script=script,
        )
        assert "Traceback" not in output
        assert message is None or message in output
    metrics = json.loads((tmp_path / "baseline/metrics.json").read_text())
    assert metrics["test"]["n"] == 12
    (manifests,) = options["manifest_folder"].iterdir()
    teacher = TextModel("teacher", "no-model", None, tmp_path / "teachers")
    with pytest.raises(ValueError, match="^The teacher reads .* train has no"):
        teacher.table(Manifests(manifests, CORPUS), {})


# Labels


def test_labels_in_order_give_no_warning(corpus, log):
    corpus.prepare()
    messages = log()
    for words in ("looks like", "no other", "different labels"):
        assert words not in messages


@pytest.mark.parametrize(
    "slip, shown, other",
    [
        ("beds", "", ""),  # It stands alone.
        ("light", "'light'", "'lights'"),
        ("ligths", "'ligths'", "'lights'"),
        ("Lights", "'Lights'", "'lights'"),
        ("li\u00adghts", "'li\\xadghts' ('li\\xadghts')", "'lights'"),
        ("LIGHTS", "'LIGHTS'", "'lights'"),
    ],
)
def test_a_value_that_may_be_a_slip_is_named(corpus, log, slip, shown, other):
    """With its row, and the value that it looks like with one of its rows."""
    corpus.set("train", 7, "object", slip)
    corpus.prepare()
    messages = log()
    place = f"{corpus.csv('train')}, row 7: the slot 'object' has the value"
    if shown:
        first = f"{corpus.csv('train')}, row 2"
        assert (
            f"{place} {shown}, which looks like {other} of {first}" in messages
        )
    else:
        assert f"{place} '{slip}', as no other training row has" in messages


def test_slips_of_other_splits_are_named_too(corpus, log):
    corpus.set("test", 5, "location", "kitchén")
    corpus.prepare()
    assert "test_data.csv, row 5: the slot 'location' has the value" in log()


def test_values_that_are_written_alike_are_shown_apart(corpus, log):
    for row, value in ((2, "caf\u00e9"), (3, "cafe\u0301"), (6, "caf\u00e9")):
        corpus.set("train", row, "location", value)
    manifests = corpus.prepare()
    messages = log()
    assert "row 3: the slot 'location' has the value 'cafe\u0301' (" in messages
    assert r"('cafe\u0301'), which looks like 'café' ('caf\xe9') of" in messages
    # It is learnt as it stands.
    assert "cafe\u0301" in manifests.schema.values["location"]


def test_the_whole_training_set_is_looked_at(corpus, log):
    """A draw has many values once."""
    corpus.prepare(train_fraction=0.1)
    assert "as no other training row has" not in log()


def test_a_warning_of_many_rows_is_short(corpus, log):
    for row in range(2, 14):
        corpus.set("train", row, "object", f"thing {row}")
    corpus.prepare()
    (line,) = (x for x in log().splitlines() if "no other training row" in x)
    assert line.count("the slot 'object'") == 3 and "(and 9 more)" in line


def test_labels_that_contradict_each_other_are_counted(corpus, log):
    """By transcript, in any writing; one is shown with both rows."""
    corpus.set("train", 6, "transcription", "TURN on, the lights!")
    corpus.set("train", 6, "location", "kitchen")
    corpus.set("train", 10, "action", "decrease")
    corpus.set("test", 3, "object", "volume")
    corpus.prepare()
    (line,) = (x for x in log().splitlines() if "different labels" in x)
    assert "rows have different labels: 2; " in line
    train = corpus.csv("train")
    assert (
        f"{train}, row 10: 'turn on the lights' has the action 'decrease', and "
        f"'activate' in {train}, row 2" in line
    )


def test_contradictions_do_not_depend_on_the_order_of_rows(corpus):
    corpus.set("train", 6, "location", "kitchen")
    corpus.set("train", 10, "action", "decrease")
    corpus.prepare()
    before = corpus.written()
    for rows in corpus.rows.values():
        rows.reverse()
    corpus.write()
    corpus.prepare()
    after = corpus.written()
    del before["prepare.json"], after["prepare.json"]
    assert before == after


# Subsets


@pytest.mark.parametrize("fraction, size", [(0.1, 2313), (0.01, 231)])
def test_subsets_of_fluent_speech_commands_have_the_papers_size(fraction, size):
    everyone = list(range(23132))
    drawn = prepare._draw(everyone, fraction, seed=0)
    assert len(drawn) == len(set(drawn)) == size
    assert drawn == sorted(drawn)
    assert drawn != prepare._draw(everyone, fraction, seed=1)


def test_a_draw_is_uniform():
    counts = np.zeros(20)
    for seed in range(2000):
        counts[prepare._draw(list(range(20)), 0.25, seed)] += 1
    # 500 each; the standard deviation is 19.4.
    assert counts.sum() == 10000
    assert np.abs(counts - 500).max() < 90


def test_a_draw_is_pinned():
    """A later version of this project must draw the same utterances."""
    assert prepare._draw(list(range(100)), 0.05, seed=3) == PINNED_DRAW


PINNED_DRAW = [8, 17, 18, 23, 77]


def test_a_subset_is_recorded(corpus):
    manifests = corpus.prepare(train_fraction=0.5, subset_seed=7)
    subset = json.loads((manifests.folder / "subset.json").read_text())
    assert subset == {
        "fraction": 0.5,
        "seed": 7,
        "n": 6,
        "ids": ids(manifests.splits["train"]),
    }
    assert (
        len(ids(manifests.splits["valid"]))
        == len(ids(manifests.splits["test"]))
        == 4
    )


def test_a_draw_depends_on_nothing_but_ids_fraction_and_seed(corpus):
    def draw(**options):
        options = {"train_fraction": 0.5, "subset_seed": 2, **options}
        return ids(corpus.prepare(**options).splits["train"])

    expected = draw()
    assert draw(subset_seed=3) != expected
    assert draw() == expected
    corpus.rows["train"].reverse()
    corpus.write()
    assert draw() == expected
    assert draw(slots=["object"]) == expected
    assert draw(slot_values={"location": ["none", "kitchen"]}) == expected
    assert draw(sample_rate=8000) == expected
    np.random.seed(5)
    corpus.add("spk_test", ["fred"])
    corpus.write()
    assert draw(test_splits=["spk_test"]) == expected
    assert set(expected) < set(ids(corpus.prepare().splits["train"]))


def test_a_subset_that_lacks_a_value_keeps_the_full_schema(corpus, log):
    full = corpus.prepare().schema
    assert "no example" not in log()
    manifests = corpus.prepare(train_fraction=0.1)
    rows = read_manifest(manifests.splits["train"])
    assert len(rows) == 1
    assert manifests.schema == full
    unheard = [v for v in full.values["action"] if v != rows[0]["action"]]
    assert f"no example of {unheard} in the slot 'action'" in log()


def test_the_text_of_a_subset_is_that_of_all(corpus):
    """One row a wording, whichever the draw and the test sets."""
    corpus.set("train", 2, "transcription", "TURN on, the lights!")
    manifests = corpus.prepare()
    texts = sorted(normalise_transcript(text) for text, *_ in corpus.COMMANDS)
    rows = read_manifest(manifests.folder / "text.csv")
    assert list(rows[0]) == ["transcription", *SLOTS]
    assert [row["transcription"] for row in rows] == texts
    assert rows[texts.index("turn on the lights")]["action"] == "activate"
    few = corpus.prepare(train_fraction=0.1, subset_seed=3)
    assert read_manifest(few.folder / "text.csv") == rows
    assert few.fingerprint("text") == manifests.fingerprint("text")
    assert list(few.transcripts()) == texts
    assert few.transcripts() == manifests.transcripts()
    assert len(few.transcripts("train")) == 1
    assert few.transcripts("train").items() <= few.transcripts().items()


# Working again, or not


@pytest.fixture
def headers_read(monkeypatch):
    """Counts how often the audio was looked into."""
    calls = []
    original = prepare._read_headers

    def counted(*arguments):
        calls.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(prepare, "_read_headers", counted)
    return calls


def test_nothing_is_done_when_nothing_has_changed(corpus, headers_read, log):
    first = corpus.prepare(train_fraction=0.5)
    files = list(corpus.manifests.iterdir())
    times = {path: path.stat().st_mtime_ns for path in files}
    log()
    assert corpus.prepare(train_fraction=0.5) == first
    assert len(headers_read) == 1
    assert "Nothing has changed" in log()
    assert sorted(corpus.manifests.iterdir()) == sorted(files)
    assert times == {path: path.stat().st_mtime_ns for path in files}


def change_csv(corpus):
    corpus.set("valid", 2, "transcription", "Lights")


def add_test_set(corpus):
    corpus.add("spk_test", ["fred"])
    corpus.write()


def change_audio(corpus):
    corpus.add_audio(corpus.rows["train"][0]["path"], seconds=0.7)


def touch_audio(corpus):
    os.utime(corpus.folder / corpus.rows["test"][0]["path"], ns=(1, 1))


@pytest.mark.parametrize(
    "change", [change_csv, add_test_set, change_audio, touch_audio]
)
def test_changed_input_is_prepared_again(corpus, headers_read, change):
    corpus.prepare()
    change(corpus)
    manifests = corpus.prepare()
    assert len(headers_read) == 2
    rows = read_manifest(manifests.splits["train"]) + read_manifest(
        manifests.splits["valid"]
    )
    if change is change_csv:
        assert rows[-4]["transcription"] == "Lights"
    if change is change_audio:
        assert rows[0]["duration"] == "0.7"
    if change is add_test_set:
        assert manifests.tests == ["test", "spk_test"]


@pytest.mark.parametrize(
    "options",
    [
        {"slots": ["object", "action"]},
        {"slot_values": {"location": ["none", "kitchen"]}},
        {"train_fraction": 0.5},
        {"train_fraction": 0.5, "subset_seed": 1},
        {"sample_rate": 8000},
        {"shared_speakers": True},
        {"test_splits": ["test"]},
        {"joint_intents": True},
    ],
)
def test_changed_arguments_are_prepared_again(corpus, headers_read, options):
    first = corpus.prepare()
    other = corpus.prepare(**options)
    assert len(headers_read) == 2
    # Each has a folder, so that neither spoils the other.
    assert first.folder != other.folder
    assert corpus.prepare() == first and corpus.prepare(**options) == other
    assert len(headers_read) == 2


@pytest.mark.parametrize(
    "name", ["train.csv", "test.csv", "text.csv", "slots.json", "subset.json"]
)
@pytest.mark.parametrize("damage", ["cut", "edited", "deleted"])
def test_a_damaged_file_is_made_again(corpus, headers_read, name, damage):
    corpus.prepare(train_fraction=0.5)
    good = corpus.written()
    content = good[name]
    (corpus.manifests / name).write_bytes(
        content[:-9] if damage == "cut" else content.replace(b"a", b"e", 1)
    )
    if damage == "deleted":
        (corpus.manifests / name).unlink()
    corpus.prepare(train_fraction=0.5)
    assert len(headers_read) == 2
    assert corpus.written() == good


@pytest.mark.parametrize("stamp", ["", "{", "[]", "null", '{"tests": 1}'])
def test_a_damaged_stamp_is_made_again(corpus, headers_read, stamp):
    corpus.prepare()
    good = corpus.written()
    (corpus.manifests / "prepare.json").write_text(stamp)
    with pytest.raises(FileNotFoundError):
        corpus.prepare(skip_prep=True)
    corpus.prepare()
    assert len(headers_read) == 2
    assert corpus.written() == good


def test_other_arguments_have_other_files(corpus):
    add_test_set(corpus)
    one = corpus.prepare(train_fraction=0.5)
    names = {path.name for path in one.folder.iterdir()}
    assert {"spk_test.csv", "subset.json"} <= names
    two = corpus.prepare(test_splits=["test"])
    files = ["train.csv", "valid.csv", "test.csv", "text.csv", "slots.json"]
    expected = {*files, "prepare.json"}
    assert {path.name for path in two.folder.iterdir()} == expected
    assert {path.name for path in one.folder.iterdir()} == names


def test_files_of_an_earlier_preparation_do_not_stay(corpus):
    corpus.prepare()
    before = corpus.written()
    add_test_set(corpus)
    corpus.prepare()
    assert "spk_test.csv" in corpus.written()
    del corpus.rows["spk_test"]
    corpus.csv("spk_test").unlink()
    corpus.prepare()
    assert corpus.written() == before


def stop_at_write(monkeypatch, number):
    """Lets the `number`-th file fail, from 0, in the moment it would appear."""
    original, calls = os.replace, []

    def replace(source, target):
        calls.append(target)
        if len(calls) > number:
            raise KeyboardInterrupt
        original(source, target)

    monkeypatch.setattr(os, "replace", replace)


@pytest.mark.parametrize("number", range(7))
def test_a_stop_at_any_write_is_made_good(corpus, monkeypatch, number):
    options = {"train_fraction": 0.5}
    corpus.prepare(**options)
    before = corpus.written()
    cell = corpus.rows["train"][0]["transcription"]
    for split in ("train", "valid", "test"):
        corpus.set(split, 2, "transcription", "Lights")
    with monkeypatch.context() as patch:
        stop_at_write(patch, number)
        with pytest.raises(KeyboardInterrupt):
            corpus.prepare(**options)
    left = corpus.written()
    assert set(left) == set(before), "a temporary file was left"
    # A mixture is taken for neither of the two.
    changed = corpus.prepare(**options)
    assert changed.read("valid")[0]["transcription"] == "Lights"
    with monkeypatch.context() as patch:
        for split in ("train", "valid", "test"):
            corpus.set(split, 2, "transcription", cell)
        stop_at_write(patch, number)
        with pytest.raises(KeyboardInterrupt):
            corpus.prepare(**options)
    corpus.prepare(**options)
    assert corpus.written() == before


def test_a_stop_leaves_manifests_of_other_arguments_alone(corpus, monkeypatch):
    corpus.prepare(train_fraction=0.5)
    before = corpus.written()
    folder = corpus.manifests
    with monkeypatch.context() as patch:
        stop_at_write(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            corpus.prepare(train_fraction=0.25)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    with pytest.raises(FileNotFoundError):
        corpus.prepare(train_fraction=0.25, skip_prep=True)


def test_a_stop_at_the_first_preparation_leaves_no_manifests(
    corpus, monkeypatch
):
    with monkeypatch.context() as patch:
        stop_at_write(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            corpus.prepare()
    assert len(corpus.written()) == 2
    with pytest.raises(FileNotFoundError):
        Manifests(corpus.manifests, corpus.folder)
    with pytest.raises(FileNotFoundError):
        corpus.prepare(skip_prep=True)


def test_other_processes_find_the_manifests(corpus):
    add_test_set(corpus)
    manifests = corpus.prepare()
    assert corpus.prepare(skip_prep=True) == manifests
    assert Manifests(corpus.manifests, corpus.folder) == manifests
    assert manifests.main_test == "test"
    assert manifests.splits == {
        name: corpus.manifests / f"{name}.csv"
        for name in ("train", "valid", "test", "spk_test")
    }
    assert manifests.schema == SlotSchema.load(corpus.manifests / "slots.json")


def test_a_prepared_folder_can_move(corpus):
    corpus.prepare()
    moved = corpus.manifests.rename(corpus.save.with_name("moved"))
    manifests = Manifests(moved, corpus.folder)
    for path in manifests.splits.values():
        assert path.is_file() and path.parent == moved
    assert Path(manifests.read("test")[0]["wav"]).is_file()


def test_skip_prep_does_not_look_at_the_data(corpus):
    manifests = corpus.prepare()
    corpus.csv("train").unlink()
    assert corpus.prepare(skip_prep=True) == manifests
    manifests.splits["valid"].unlink()
    with pytest.raises(FileNotFoundError, match="valid.csv is missing.*skip"):
        corpus.prepare(skip_prep=True)


# Refusals


def rewrite(split, change):
    """Returns a function that changes the bytes of a split's CSV file."""

    def apply(corpus):
        path = corpus.csv(split)
        path.write_bytes(change(path.read_bytes()))

    return apply


def cell(split, row, column, value):
    """Returns a function that changes one cell."""
    return lambda corpus: corpus.set(split, row, column, value)


def audio(content):
    """Returns a function that replaces the audio of row 3 of valid."""

    def apply(corpus):
        path = corpus.folder / corpus.rows["valid"][1]["path"]
        path.unlink()
        if content is not None:
            path.write_bytes(content)

    return apply


def no_samples(corpus):
    corpus.add_audio(corpus.rows["valid"][1]["path"], seconds=0)


def half_a_flac(corpus):
    corpus.add_audio("half.flac", seconds=1)
    path = corpus.folder / "half.flac"
    path.write_bytes(path.read_bytes()[:9000])
    corpus.set("valid", 3, "path", "half.flac")


def half_an_ogg(corpus):
    corpus.add_audio("half.ogg", seconds=4, subtype="OPUS")
    path = corpus.folder / "half.ogg"
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"OggS")])
    corpus.set("valid", 3, "path", "half.ogg")


def a_sample_that_is_no_number(corpus):
    noise = np.random.default_rng(0).normal(0, 0.01, (40000, 2))
    noise[39999, 1] = np.nan
    path = corpus.folder / "nan.wav"
    soundfile.write(path, noise, 16000, subtype="FLOAT")
    corpus.set("train", 4, "path", "nan.wav")


def a_folder_for_audio(corpus):
    (corpus.folder / "folder.wav").mkdir()
    corpus.set("valid", 3, "path", "folder.wav")


def no_test_set(corpus):
    corpus.csv("test").unlink()


def many_missing(corpus):
    for row in corpus.rows["train"][4:]:
        (corpus.folder / row["path"]).unlink()


def copy_row(source, target):
    """Returns a function that appends the first row of a split to a split."""

    def apply(corpus):
        row = {**corpus.rows[source][0], "speakerId": "greta"}
        corpus.rows[target].append(row)
        corpus.write()

    return apply


def same_name_as_flac(corpus):
    corpus.add_audio("wavs/speakers/anna/train-000.flac")
    corpus.set("train", 4, "path", "wavs/speakers/anna/train-000.flac")


MISSING, WRONG = FileNotFoundError, ValueError
TRAIN_CSV, VALID_CSV, TEST_CSV = (
    f"data/{split}_data.csv" for split in ("train", "valid", "test")
)
AUDIO = "wavs/speakers/dora/valid-001.wav"

# What is done to the corpus or asked for, and what the message must name.
REFUSALS = {
    "data folder": (
        lambda corpus: corpus.folder.rename(corpus.folder.with_name("x")),
        *({}, MISSING, ["/corpus does not exist", "correct data_folder"]),
    ),
    "train csv": (
        lambda corpus: corpus.csv("train").unlink(),
        *({}, MISSING, [TRAIN_CSV, "does not exist", "['test_data.csv'"]),
    ),
    "csv folder": (
        lambda corpus: None,
        {"csv_folder": "nowhere"},
        *(MISSING, ["nowhere/train_data.csv", "(and 1 more)", "csv_folder"]),
    ),
    "no test csv": (
        no_test_set,
        *({}, MISSING, ["no test set in", "test_data.csv", "train_data"]),
    ),
    "given test csv": (
        lambda corpus: None,
        {"test_splits": ["test", "far_test"]},
        *(MISSING, ["far_test_data.csv", "does not exist"]),
    ),
    "path as test": (
        lambda corpus: None,
        {"test_splits": ["test", "../data/test"]},
        *(WRONG, ["test_splits: '../data/test' is no name", "_data.csv"]),
    ),
    "train as test": (
        lambda corpus: None,
        {"test_splits": ["train"]},
        *(WRONG, ["test_splits", "neither train nor valid"]),
    ),
    "test twice": (
        lambda corpus: None,
        {"test_splits": ["test", "test"]},
        *(WRONG, ["test_splits", "once"]),
    ),
    "no test set asked": (
        lambda corpus: None,
        {"test_splits": []},
        *(MISSING, ["no test set"]),
    ),
    "not UTF-8": (
        rewrite("valid", lambda b: b.replace("’".encode(), b"\x92")),
        *({}, WRONG, [VALID_CSV, "row 4", "not UTF-8", "save the file as"]),
    ),
    "nothing in csv": (
        rewrite("valid", lambda b: b""),
        *({}, WRONG, [VALID_CSV, "no utterances"]),
    ),
    "header alone": (
        rewrite("valid", lambda b: b.splitlines()[0]),
        *({}, WRONG, [VALID_CSV, "no utterances"]),
    ),
    "open quote": (
        rewrite("valid", lambda b: b + b'4,"wavs/x.wav,x,x,x,x,x\r\n'),
        *({}, WRONG, [VALID_CSV, "line 6", "not CSV", "quotes"]),
    ),
    "missing column": (
        rewrite("test", lambda b: b.replace(b"object", b"Object")),
        *({}, WRONG, [TEST_CSV, "'object' not", "'Object', 'location'"]),
    ),
    "missing own column": (
        rewrite("test", lambda b: b.replace(b"speakerId", b"speaker")),
        *({}, WRONG, [TEST_CSV, "'speakerId' not", "'speaker'"]),
    ),
    "column twice": (
        rewrite("test", lambda b: b.replace(b"object", b"action")),
        *({}, WRONG, [TEST_CSV, "'action' twice"]),
    ),
    "comma without quotes": (
        rewrite("train", lambda b: b.replace(b'"', b"")),
        {},
        WRONG,
        [TRAIN_CSV, "row 4 has 8 cells", "header 7", "(and 2 more)", "quotes"],
    ),
    "empty slot": (
        cell("train", 5, "object", " "),
        *({}, WRONG, [TRAIN_CSV, "row 5", "slot 'object' is empty"]),
    ),
    "empty transcription": (
        cell("train", 3, "transcription", ""),
        *({}, WRONG, [TRAIN_CSV, "row 3", "'transcription' is empty"]),
    ),
    "no word": (
        cell("train", 3, "transcription", "?!"),
        *({}, WRONG, [TRAIN_CSV, "row 3", "'?!' holds no word"]),
    ),
    "empty speaker": (
        cell("train", 3, "speakerId", ""),
        *({}, WRONG, [TRAIN_CSV, "row 3", "'speakerId' is empty"]),
    ),
    "a zero byte in a path": (
        cell("test", 3, "path", "/etc/host\0name.wav"),
        *({}, WRONG, [TEST_CSV, " 3"]),  # no CSV at all before Python 3.11
    ),
    "absolute path beside the folder": (
        lambda corpus: corpus.set(
            "test", 3, "path", f"{corpus.folder}-2/wavs/x.wav"
        ),
        *({}, WRONG, [TEST_CSV, "row 3", "corpus-2/wavs/x.wav", "out of"]),
    ),
    "path upwards": (
        cell("test", 3, "path", "wavs/../../secret.wav"),
        *({}, WRONG, [TEST_CSV, "row 3", "wavs/../../secret.wav", "out of"]),
    ),
    "absolute path": (
        cell("test", 3, "path", "/etc/hostname.wav"),
        *({}, WRONG, [TEST_CSV, "row 3", "/etc/hostname.wav", "out of"]),
    ),
    "variable in a path": (
        cell("test", 3, "path", "wavs/$home.wav"),
        *({}, WRONG, [TEST_CSV, "row 3", "'path'", "$home"]),
    ),
    "variable in a slot": (
        cell("test", 3, "object", "$lamp"),
        *({}, WRONG, [TEST_CSV, "row 3", "'object'", "$lamp"]),
    ),
    "value not in slot_values": (
        cell("valid", 4, "location", "Kitchen"),
        {"slot_values": {"location": ["kitchen", "none"]}},
        WRONG,
        [VALID_CSV, "row 4", "'location'", "'Kitchen'", "['kitchen', 'none']"],
    ),
    "same row": (
        copy_row("train", "train"),
        *({}, WRONG, [TRAIN_CSV, "row 14", "train-000", "row 2", "keep one"]),
    ),
    "train row in test": (
        copy_row("train", "test"),
        *({}, WRONG, [TEST_CSV, "row 6", "train-000", "train_data.csv, row 2"]),
    ),
    "valid row in test": (
        copy_row("valid", "test"),
        *({}, WRONG, [TEST_CSV, "row 6", "valid-000", "valid_data.csv, row 2"]),
    ),
    "transcription twice": (
        rewrite("test", lambda b: b.replace(b",path", b"transcription,path")),
        *({}, WRONG, [TEST_CSV, "'transcription' twice"]),
    ),
    "two files of one ID": (
        same_name_as_flac,
        *({}, WRONG, [TRAIN_CSV, "row 4", "000.flac", "000.wav", "row 2"]),
    ),
    "missing audio": (
        audio(None),
        *({}, MISSING, [VALID_CSV, "row 3", AUDIO, "does not exist"]),
    ),
    "many missing audio": (
        many_missing,
        *({}, MISSING, [TRAIN_CSV, "row 6", "train-004", "(and 7 more)"]),
    ),
    "folder for audio": (
        a_folder_for_audio,
        *({}, MISSING, [VALID_CSV, "row 3", "folder.wav", "does not exist"]),
    ),
    "corrupt audio": (
        audio(b"not audio at all"),
        *({}, WRONG, [VALID_CSV, "row 3", AUDIO, "cannot be read", "intact"]),
    ),
    "empty audio file": (
        audio(b""),
        *({}, WRONG, [VALID_CSV, "row 3", AUDIO, "cannot be read"]),
    ),
    "half a flac": (
        half_a_flac,
        *({}, WRONG, [VALID_CSV, "row 3", "half.flac", "cannot be read"]),
    ),
    "half an ogg": (
        half_an_ogg,
        *({}, WRONG, [VALID_CSV, "row 3", "half.ogg is cut short"]),
    ),
    "a sample that is no number": (
        a_sample_that_is_no_number,
        *({}, WRONG, [TRAIN_CSV, "row 4", "nan.wav has samples that", "NaN"]),
    ),
    "no samples": (
        no_samples,
        *({}, WRONG, [VALID_CSV, "row 3", AUDIO, "has no samples"]),
    ),
    "no slots": (
        lambda corpus: None,
        *({"slots": []}, WRONG, ["slots must name at least one"]),
    ),
    "slot twice": (
        lambda corpus: None,
        *({"slots": ["action", "action"]}, WRONG, ["each once"]),
    ),
    "slot of a manifest's name": (
        lambda corpus: None,
        *({"slots": ["transcription"]}, WRONG, ["'transcription' cannot be"]),
    ),
    "values of no slot": (
        lambda corpus: None,
        {"slot_values": {"colour": ["red"]}},
        *(WRONG, ["'colour'", "['action', 'object', 'location']"]),
    ),
    "values that YAML changed": (
        lambda corpus: None,
        {"slot_values": {"location": ["none", True]}},
        *(WRONG, ["'location'", "True", "quote"]),
    ),
    "a bar in a value of joint intents": (
        lambda corpus: corpus.set("valid", 3, "object", "lamp | bulb"),
        {"joint_intents": True},
        *(WRONG, [VALID_CSV, "row 3", "has a |", "lamp | bulb"]),
    ),
    "values of joint intents": (
        lambda corpus: None,
        {"joint_intents": True, "slot_values": {"action": ["bring"]}},
        *(WRONG, ["slot_values", "joint_intents", "leave one"]),
    ),
    "draw of nothing": (
        lambda corpus: None,
        {"train_fraction": 0.01},
        *(WRONG, ["train_fraction 0.01 of 12 utterances is none", "raise it"]),
    ),
    "negative seed": (
        lambda corpus: None,
        {"train_fraction": 0.5, "subset_seed": -1},
        *(WRONG, ["subset_seed", "-1"]),
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_wrong_is_said_before_anything_is_written(corpus, case):
    damage, options, kind, parts = REFUSALS[case]
    damage(corpus)
    with pytest.raises(kind) as error:
        corpus.prepare(**options)
    message = str(error.value)
    for part in parts:
        assert part in message
    # One sentence.
    assert message.endswith(".") and ". " not in message
    assert "\n" not in message
    assert not corpus.save.exists()


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, float("nan"), "10%", None])
def test_a_fraction_is_above_0_and_at_most_1(corpus, fraction):
    with pytest.raises(ValueError, match="train_fraction must be above 0"):
        corpus.prepare(train_fraction=fraction)
    assert not corpus.save.exists()


def test_a_refusal_leaves_earlier_manifests_alone(corpus):
    corpus.prepare()
    before = corpus.written()
    corpus.set("train", 3, "object", "")
    with pytest.raises(ValueError):
        corpus.prepare()
    assert corpus.written() == before


# Corpora beside the repository


def needs(name):
    """Skips where a corpus is not beside the repository."""
    return pytest.mark.skipif(
        not (SHARED / name).is_dir(), reason=f"{name} is not here"
    )


@needs("commands")
def test_the_synthetic_commands(tmp_path):
    manifests = prepare.prepare_fsc(SHARED / "commands", tmp_path, SLOTS)
    assert manifests.schema.sizes == [6, 14, 4]
    assert len(ids(manifests.splits["train"])) == 5484
    assert len(ids(manifests.splits["valid"])) == 1074
    assert len(ids(manifests.splits["test"])) == 2300


@needs("commands")
def test_the_synthetic_unseen_splits(tmp_path):
    folder = SHARED / "commands"
    options = {"train_fraction": 0.01, "csv_folder": folder / "unseen_splits"}
    manifests = prepare.prepare_fsc(folder, tmp_path, SLOTS, **options)
    assert manifests.schema.sizes == [6, 14, 4]
    sizes = {name: len(ids(manifests.splits[name])) for name in manifests.tests}
    assert sizes == {"spk_test": 1783, "both_test": 446, "utt_test": 1106}
    assert list(sizes)[0] == manifests.main_test == "spk_test"
    assert len(ids(manifests.splits["train"])) == 44
    assert len(ids(manifests.splits["valid"])) == 817


@needs("coffee-orders")
def test_six_other_slots(tmp_path):
    slots = ["drink", "shots", "roast", "size", "milk", "sweetener"]
    manifests = prepare.prepare_fsc(SHARED / "coffee-orders", tmp_path, slots)
    schema = manifests.schema
    assert (schema.names, schema.sizes) == (slots, [10, 4, 4, 8, 7, 4])
    sizes = [len(ids(manifests.splits[split])) for split in ("train", "valid")]
    assert sizes + [len(ids(manifests.splits["test"]))] == [249, 67, 109]
