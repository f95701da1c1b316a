"""Short configurations, the command line, and what is said of mistakes."""

from pathlib import Path

import pytest
import torch

from slu_kd_lobes.losses.distances import (
    KLDistance,
    L1Distance,
    MSEDistance,
    SmoothL1Distance,
)
from slu_kd_lobes.losses.schedules import ConstantWeight, TriangularWeight
from slu_kd_lobes.losses.slots import SlotCrossEntropy
from slu_kd_lobes.students.encoders import (
    SpeechBrainEncoder,
    TransformerEncoder,
)
from slu_kd_lobes.students.sincnet import SincNetEncoder
from slu_kd_lobes.teachers.controls import IntentMeans, OneHot, ShuffledRows
from slu_kd_lobes.teachers.text_teacher import (
    ClsPooling,
    MaxPooling,
    MeanPooling,
)
from slu_kd_lobes.training.hparams import (
    check_kind,
    complete_yaml,
    load_hparams,
    settings,
    typed_value,
)
from slu_kd_lobes.training.run_folder import check_same_run
from slu_kd_lobes.utils.files import write_text

HPARAMS = Path(__file__).resolve().parents[1] / "hparams"
FILES = sorted(HPARAMS.glob("*.yaml"))
COMPLETE = ("base", "cascade")
SHORT = [f for f in FILES if f.stem not in COMPLETE]

BASE = """\
# A complete configuration.
seed: 1234
output_folder: !ref results/<seed>
lr: 0.001  # of Adam
epochs: 20
half: !ref <epochs> // 2
store: True
teachers: [teacher]
extra: {}
loss: !new:torch.nn.SmoothL1Loss
    reduction: sum
    beta: 0.5
schedule: !new:slu_kd_lobes.losses.schedules.ConstantWeight
    beta: 0.1
nested:
    one: 1
    two: 2
plain: !new:torch.nn.ReLU
"""


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    """A checkpointer makes its folder where the program runs."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def short(tmp_path):
    """Writes a short configuration beside its base and returns its path."""
    (tmp_path / "base.yaml").write_text(BASE)

    def write(text=""):
        path = tmp_path / "short.yaml"
        path.write_text(f"base: base.yaml\n{text}")
        return path

    return write


def message_of(path, overrides=None):
    """The one sentence with which a configuration is refused."""
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        load_hparams(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_command_line_wins_over_short_file_over_base(short):
    """Each may state what it changes only."""
    path = short("lr: 0.01\nepochs: 10\n")
    hparams, _ = load_hparams(path, {"epochs": "4"})
    assert [hparams[k] for k in ("seed", "lr", "epochs")] == [1234, 0.01, 4]


def test_references_follow_the_changes(short):
    """Whoever makes them."""
    path = short("epochs: 10\n")
    hparams, _ = load_hparams(path, {"seed": "7"})
    assert hparams["half"] == 5
    assert hparams["output_folder"] == "results/7"


def test_a_complete_file_needs_no_base(short):
    """And takes the command line alike."""
    path = short().with_name("base.yaml")
    assert load_hparams(path)[0]["half"] == 10
    assert load_hparams(path, {"epochs": "6"})[0]["half"] == 3


def test_another_class_replaces_the_arguments(short):
    """Those of the old class would be unknown to it."""
    hparams, _ = load_hparams(short("loss: !new:torch.nn.MSELoss\n"))
    assert type(hparams["loss"]) is torch.nn.MSELoss
    assert hparams["loss"].reduction == "mean"
    text = (
        "schedule: !new:slu_kd_lobes.losses.schedules.TriangularWeight\n"
        "    epochs: !ref <epochs>\n"
    )
    hparams, _ = load_hparams(short(text))
    assert type(hparams["schedule"]) is TriangularWeight
    assert hparams["schedule"](10, 0.0) == 0.1


@pytest.mark.parametrize("tag", ["", "!new:torch.nn.SmoothL1Loss"])
def test_the_same_class_keeps_the_other_arguments(short, tag):
    """Whether the short file repeats its name or not."""
    hparams, _ = load_hparams(short(f"loss: {tag}\n    beta: 2.0\n"))
    assert type(hparams["loss"]) is torch.nn.SmoothL1Loss
    assert (hparams["loss"].beta, hparams["loss"].reduction) == (2.0, "sum")


def test_arguments_of_an_object_from_the_command_line(short):
    """As YAML on one line."""
    path = short()
    overrides = {"schedule": "{beta: 0.5}", "loss": "{beta: 2.0}"}
    hparams, _ = load_hparams(path, overrides)
    assert hparams["schedule"](1, 0.0) == 0.5
    assert (hparams["loss"].beta, hparams["loss"].reduction) == (2.0, "sum")


def test_another_class_from_the_command_line(short):
    """With its own arguments, or with none."""
    path = short()
    kind = "!new:slu_kd_lobes.losses.schedules.TriangularWeight"
    overrides = {
        "schedule": f"{kind} {{epochs: 4}}",
        "loss": "!new:torch.nn.MSELoss",
    }
    hparams, _ = load_hparams(path, overrides)
    assert type(hparams["schedule"]) is TriangularWeight
    assert hparams["schedule"].middle == 2
    assert type(hparams["loss"]) is torch.nn.MSELoss


def test_mappings_are_merged_and_lists_replaced(short):
    """A list has no keys to merge by."""
    text = "nested: {two: 3}\nteachers: [teacher, professor]\n"
    hparams, _ = load_hparams(short(text))
    assert hparams["nested"] == {"one": 1, "two": 3}
    assert hparams["teachers"] == ["teacher", "professor"]
    assert load_hparams(short("teachers: []\n"))[0]["teachers"] == []


def test_an_empty_mapping_takes_any_key(short):
    """There is none to compare it with."""
    hparams, _ = load_hparams(short("extra: {a: 1}\n"))
    assert hparams["extra"] == {"a": 1}
    more = {"extra": "{b: 2}"}
    hparams, _ = load_hparams(short("extra: {a: 1}\n"), more)
    assert hparams["extra"] == {"a": 1, "b": 2}
    assert "'extra' must be keys and" in message_of(short(), {"extra": "5"})


def test_unknown_key_in_a_file_is_refused_with_a_hint(short):
    """Also a nested one."""
    path = short("epoch: 3\n")
    assert message_of(path) == (
        f"{path}: there is no key 'epoch'; did you mean 'epochs'?"
    )
    assert message_of(short("nested: {twp: 3}\n")) == (
        f"{path}: nested: there is no key 'twp'; did you mean 'two'?"
    )
    assert "'zzz'; see the base file" in message_of(short("zzz: 3\n"))


def test_unknown_key_on_the_command_line_is_refused_with_a_hint(short):
    """Whatever was typed for it."""
    path = short()
    assert message_of(path, {"sed": "3"}) == (
        "command line: there is no key 'sed'; did you mean 'seed'?"
    )


def test_unknown_argument_of_an_object_is_refused(short):
    """By the object."""
    message = message_of(short("schedule: {gamma: 0.5}\n"))
    assert message.startswith(str(short())) and "gamma" in message


@pytest.mark.parametrize(
    "change, words",
    [
        ("lr: fast", "'lr' must be a number, as 0.001 is; it is 'fast'"),
        ("epochs: [1]", "'epochs' must be a number, as 20 is"),
        ("epochs: True", "'epochs' must be a number, as 20 is; it is 'True'"),
        ("epochs: 'ten'", "'epochs' must be a number"),
        ("store: 1", "'store' must be True or False, as True is; it is '1'"),
        ("store: 'no'", "'store' must be True or False"),
        ("nested: {two: two}", "'nested.two' must be a number"),
        ("teachers: professor", "'teachers' must be a list such as [profess"),
        ("teachers: null", "'teachers' must be a list"),
    ],
)
def test_a_value_of_another_type_is_refused(short, change, words):
    """In a file and on the command line, which is named."""
    path = short(f"{change}\n")
    message = message_of(path)
    assert message.startswith(f"{path}: ") and words in message
    key, _, text = change.partition(": ")
    message = message_of(short(), {key: text})
    assert message.startswith("command line: ") and words in message


@pytest.mark.parametrize(
    "change, key, value",
    [
        ("lr: 1e-4", "lr", 1e-4),
        ("lr: 1", "lr", 1),
        ("half: null", "half", None),
        ("lr: !ref <epochs> / 10", "lr", 2.0),
        ("store: false", "store", False),
        ("seed: 0", "seed", 0),
    ],
)
def test_values_of_the_right_type_are_taken(short, change, key, value):
    """Any writing of a number; null and references are for the object."""
    assert load_hparams(short(f"{change}\n"))[0][key] == value
    _, _, text = change.partition(": ")
    hparams, _ = load_hparams(short(), {key: text})
    assert hparams[key] == value and type(hparams[key]) is type(value)


@pytest.mark.parametrize(
    "change",
    [
        "loss: !new:torch.nn.NoSuchLoss",
        "loss: !new:no_such_package.Loss",
        "lr: !ref <no_such_key>",
        "lr: [1, 2",
        "schedule: {beta: 1.5}",
        "loss: !new:torch.nn.L1Loss {no_such_argument: 1}",
    ],
)
def test_other_mistakes_are_one_sentence(short, change):
    """A missing class or package, a reference to nothing, no YAML."""
    key, _, text = change.partition(": ")
    for message in (
        message_of(short(f"{change}\n")),
        message_of(short(), {key: text}),
    ):
        assert len(message) < 300, message


@pytest.mark.parametrize("text", ["just a sentence", "- one\n- two\n", ""])
def test_a_file_that_is_no_configuration_is_one_sentence(short, text):
    """Lines without keys, a list, nothing at all."""
    path = short()
    path.write_text(text)
    assert message_of(path) == f"{path} must consist of lines 'key: value'"
    assert "is not valid YAML in line" in message_of(short("just: a: b\n"))


def test_missing_files_are_named(tmp_path, short):
    """The configuration, and its base."""
    path = short()
    (tmp_path / "base.yaml").unlink()
    base = tmp_path / "base.yaml"
    assert message_of(path) == f"{path}: its base {base} does not exist"
    path.unlink()
    assert message_of(path) == f"there is no configuration file {path}"


def test_a_base_that_has_a_base_is_refused(short):
    path = short("seed: 1\n")
    shorter = path.with_name("shorter.yaml")
    shorter.write_text(f"base: {path.name}\nseed: 2\n")
    assert message_of(shorter).endswith("has a base, base.yaml: name that one")


def test_base_is_relative_to_the_file(tmp_path, short):
    """Not to the folder that the program runs in."""
    short()
    folder = tmp_path / "deeper"
    folder.mkdir()
    (folder / "a.yaml").write_text("base: ../base.yaml\nseed: 1\n")
    assert load_hparams(folder / "a.yaml")[0]["seed"] == 1


def test_the_complete_yaml_states_everything(short):
    """Every key of the base, with the changes in its place."""
    text = complete_yaml(short("lr: 0.5\n"), {"seed": "3"})
    values = settings(text)
    assert list(values) == list(settings(BASE))
    assert values == {**settings(BASE), "lr": 0.5, "seed": 3}
    assert "base" not in values


def test_comments_of_the_base_stay(short):
    """The folder of a run explains itself."""
    text = complete_yaml(short("lr: 0.5\n"))
    assert "# A complete configuration." in text and "# of Adam" in text


def test_saved_yaml_can_be_run_again(tmp_path, short):
    """On its own: it needs neither the base nor the command line."""
    first, text = load_hparams(short("lr: 0.5\n"), {"epochs": "8"})
    saved = tmp_path / "run" / "hyperparams.yaml"
    write_text(saved, text)
    again, same = load_hparams(saved)
    assert settings(same) == settings(text)
    assert first.keys() == again.keys()
    for key in first.keys() - {"loss", "schedule", "plain"}:
        assert again[key] == first[key], key
    assert again["schedule"](1, 0.0) == first["schedule"](1, 0.0)


# Values from the command line

WORDS = [
    "My Corpus #2",
    "v=2",
    "20240101",
    "2024-01-01",
    "a: b",
    "- a",
    "[a]",
    "no",
    "True",
    "12:30",
    "1e-3",
    "1_000",
    "'quoted'",
    "!new:torch.nn.ReLU",
    "&a *b | > %",
    " spaces ",
    "Öl",
    "C:\\data",
    "a<b",
    "> a",
    "😀 $HOME 100% @x `x`",
    "~ x",
    "...",
    "---",
    "? a",
    ".nan",
    "0x1F",
    "[a] b",
    "{a: b} c",
    "{",
    "a\tb",
]


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("default", ["results", None])
def test_text_is_what_was_typed(word, default):
    """Of a name, and of a key that holds nothing so far."""
    if default is None and word == "[a]":
        assert typed_value("slot_values", word, None) == ["a"]
    else:
        assert typed_value("output_folder", word, default) == word


@pytest.mark.parametrize("word", [word for word in WORDS if word != "[a]"])
def test_every_text_key_takes_what_was_typed(word):
    """And so do all that refer to it, in the file that is saved, too."""
    endings = ("_folder", "_source", "config", "train_log", "text_encoder")
    base = settings(complete_yaml(HPARAMS / "base.yaml"))
    keys = [key for key in base if key.endswith(endings)]
    assert len(keys) > 10
    _, text = load_hparams(HPARAMS / "base.yaml", dict.fromkeys(keys, word))
    Path("again.yaml").write_text(text, encoding="utf-8")
    hparams, _ = load_hparams("again.yaml")
    assert {key: hparams[key] for key in keys} == dict.fromkeys(keys, word)
    assert hparams["save_folder"] == hparams["tensorboard_folder"] == word
    assert hparams["corpus"]["data_folder"] == word
    assert hparams["corpus"]["csv_folder"] == word
    assert hparams["make_encoder"].keywords["source"] == word
    assert hparams["make_features"].keywords["folder"] == word
    assert hparams["text_models"]["teacher"].text_encoder == word


def test_references_take_text_as_it_is():
    """No arithmetic with what looks like numbers."""
    for word in ("20240101", "2-1", "My Corpus #2", "a: b", "1e5"):
        hparams, _ = load_hparams(
            HPARAMS / "base.yaml", {"config": word, "data_folder": word}
        )
        assert hparams["output_folder"] == f"results/{word}/1234"
        assert hparams["save_folder"] == f"results/{word}/1234/save"
        assert hparams["corpus"]["data_folder"] == word


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
    """From the command line, a short file and a complete one."""
    monkeypatch.setenv("HOME", "/home/anna")
    path = tmp_path / "a.yaml"
    path.write_text(f"base: {HPARAMS / 'base.yaml'}\nencoder_source: ~/e\n")
    keys = {"data_folder": "~/x", "csv_folder": "~/y", "text_encoder": "/a/~/x"}
    text = complete_yaml(path, keys)
    for values in (settings(text), settings(complete_yaml(saved(text)))):
        assert values["encoder_source"] == "/home/anna/e"
        assert values["data_folder"] == "/home/anna/x"
        assert values["csv_folder"] == "/home/anna/y"
        assert values["text_encoder"] == "/a/~/x"
    written = saved(text.replace("/home/anna/x", "~/z"))
    assert settings(complete_yaml(written))["data_folder"] == "/home/anna/z"


def saved(text):
    """The path of a file with a configuration."""
    write_text("saved.yaml", text)
    return Path("saved.yaml")


def test_null_is_nothing_for_every_kind():
    """Text, a number, what was nothing."""
    for default in ("results", 0.1, None):
        assert typed_value("key", "null", default) is None
    hparams, _ = load_hparams(HPARAMS / "base.yaml", {"csv_folder": "null"})
    assert hparams["csv_folder"] is hparams["corpus"]["csv_folder"] is None


def test_what_hyperpyyaml_would_read_as_a_key_is_refused():
    """In a sentence."""
    message = message_of(HPARAMS / "base.yaml", {"output_folder": "<seed>/a"})
    assert message == (
        "command line: 'output_folder' cannot hold both < and >, or begin "
        "with ( and end with ), as '<seed>/a' does: choose another name"
    )


@pytest.mark.parametrize("word", ["(a)", "(1, 2)", "(My) data (2)", "()"])
def test_what_hyperpyyaml_would_read_as_a_tuple_is_refused(word):
    """In a sentence, also where nothing was before; one bracket is text."""
    for key in ("data_folder", "csv_folder", "config"):
        message = message_of(HPARAMS / "base.yaml", {key: word})
        assert f"'{key}' cannot hold both < and >, or begin with (" in message
    for word in ("(a) b", "b (2)", "(", ")"):
        hparams, _ = load_hparams(HPARAMS / "base.yaml", {"data_folder": word})
        assert hparams["corpus"]["data_folder"] == word


@pytest.mark.parametrize(
    "default, right, wrong",
    [
        (3, [4, 0.5, None], ["4", True, [4], {"a": 1}]),
        (0.5, [4, 0.5, None], ["fast", False, [4]]),
        (True, [False, None], [0, 1, "True", [True]]),
        ("a", ["b", "", None], [1, True, 0.5]),
        (None, ["b", None], []),
    ],
)
def test_a_kind_is_that_of_the_value_before(default, right, wrong):
    """Whole and broken numbers are one kind; True is none."""
    for value in right:
        check_kind("key", value, default, "a.yaml")
    for value in wrong:
        with pytest.raises(
            ValueError, match="^a.yaml: 'key' must be .*; it is"
        ):
            check_kind("key", value, default, "a.yaml")


@pytest.mark.parametrize(
    "key, text, words",
    [
        ("seed", "-1", "'seed' must be a whole number from 0 to 4294967295"),
        ("subset_seed", "0.5", "a whole number from 0"),
        ("batch_size", "0", "a whole number from 1 to 1000000; it is 0"),
        ("batch_size", "1e3", "a whole number from 1"),
        ("number_of_epochs", "99999999999", "a whole number from 1"),
        ("valid_every", "1.5", "a whole number from 1"),
        ("max_tokens", "null", "a whole number from 3 to 1000000; it is null"),
        ("num_workers", "-2", "a whole number from 0"),
        ("lr", "0", "a number from 1e-12 to 1000; it is 0"),
        ("lr", ".nan", "a number from 1e-12 to 1000; it is nan"),
        ("lr", "-.inf", "a number from 1e-12 to 1000; it is -inf"),
        ("kd_weight", "-1", "a number from 0 to 1000000; it is -1"),
        ("kd_temperature", "-1", "a number from 0.001"),
        ("label_smoothing", "2", "a number from 0 to 1"),
        ("matching_weight", "-0.1", "a number from 0"),
        ("test_epoch", "First", "'test_epoch' must be last or best; it is 'Fi"),
        ("feature_dtype", "int8", "must be float32 or float16; it is 'int8'"),
        ("student", "{dropout: 1.0}", "'student.dropout' must be a number"),
        ("fine_tuning", "{lr: .nan}", "'fine_tuning.lr' must be a number"),
        ("fine_tuning", "{seed: -3}", "'fine_tuning.seed' must be a whole"),
        (
            "fine_tuning",
            "{loss: {label_smoothing: -1}}",
            "'fine_tuning.loss.label_smoothing' must be a number from 0 to 1",
        ),
        ("fine_tuning", "null", "must be keys and values such as {seed: ...}"),
        ("fine_tuning", "{text: part}", "choose whole or subset"),
        (
            "data_folder",
            "",
            "must be text of a length from 1 to 4096; it is ''",
        ),
        ("output_folder", "null", "'output_folder' must be text of a length"),
        ("slot_values", "{a: [b", "must be keys and values such as {name: "),
        ("fixed_weights", "[1]", "must be keys and values such as {name: "),
        ("fixed_weights", "{teacher: .nan}", "weight of the teacher is nan"),
        ("fixed_weights", "{teacher: -1}", "weight of the teacher is -1"),
        ("slots", "[action, 7]", "'slots, 2' must be text (in quotes"),
        ("teachers", "[teacher, teacher]", "names one twice: teacher, teach"),
        ("student", "{hiden_size: 3}", "unexpected keyword argument 'hiden"),
        ("student", "null", "'student' must be an object, as !name:slu_kd"),
        ("opt_class", "{betas: [0.9, 2]}", "Invalid beta parameter"),
        ("opt_class", "{momentum: 1}", "unexpected keyword argument 'momen"),
        ("beta", "0.1", "must be left as it is: 'kd_schedule' chooses it"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused(key, text, words):
    """Before anything is made of it, by key and value."""
    assert words in message_of(HPARAMS / "base.yaml", {key: text})


def test_a_range_holds_in_files_and_for_all_recipes(tmp_path):
    """The file is named; the bounds themselves can be used."""
    path = tmp_path / "a.yaml"
    path.write_text(f"base: {HPARAMS / 'base.yaml'}\nbatch_size: 0\n")
    assert message_of(path).startswith(f"{path}: 'batch_size' must be")
    speech = HPARAMS.parent / "recipes/LibriSpeech/SincNet-ASR/hparams"
    keys = {"data_folder": "x", "num_words": "0"}
    for name in ("frames", "ctc"):
        message = message_of(speech / f"{name}.yaml", keys)
        assert message.startswith("command line: 'num_words' must be a whole")
    edges = {"seed": "4294967295", "kd_weight": "1", "batch_size": "1"}
    edges |= {"label_smoothing": "0", "student": "{dropout: 0}"}
    hparams, _ = load_hparams(HPARAMS / "base.yaml", edges)
    assert hparams["seed"] == 2**32 - 1 and hparams["batch_size"] == 1


def test_a_nested_number_behind_a_reference_can_be_set():
    """What it refers to says of what kind it is."""
    hparams, _ = load_hparams(
        HPARAMS / "base.yaml", {"text_models": "{teacher: {max_length: 30}}"}
    )
    models = hparams["text_models"]
    assert models["teacher"].max_length == 30
    assert models["professor"].max_length == 60
    keys = {"text_models": "{teacher: {max_length: long}}"}
    message = message_of(HPARAMS / "base.yaml", keys)
    assert "'text_models.teacher.max_length' must be a number" in message
    keys = {"corpus": "{data_folder: 20240101}"}
    assert "must be text (in quotes" in message_of(HPARAMS / "base.yaml", keys)


def test_lists_and_mappings_come_as_yaml():
    """On one line, and kept in what is saved."""
    overrides = {
        "teachers": "[professor, teacher]",
        "slot_values": '{location: [none, "kitchen: big"]}',
        "fixed_weights": "{teacher: 0.7, professor: 0.3}",
        "slots": "[action]",
    }
    hparams, text = load_hparams(HPARAMS / "base.yaml", overrides)
    assert hparams["teachers"] == ["professor", "teacher"]
    values = {"location": ["none", "kitchen: big"]}
    assert hparams["slot_values"] == hparams["corpus"]["slot_values"] == values
    weights = hparams["distillation"].teacher_weights
    given = weights(hparams["teachers"], 0.5)
    assert given == {"professor": 0.3, "teacher": 0.7}
    assert settings(text)["slots"] == ["action"]


def test_settings_are_what_a_yaml_says_however_it_is_written(short):
    """Quotes, comments, line breaks and styles of lists say nothing."""
    same = [
        "a: [1, b]\nc: !new:x.Y\n  d: 0.5\n",
        "a:  # why\n  - 1\n  - 'b'\n\n# Next.\nc: !new:x.Y {d: 5e-1}\n",
    ]
    assert settings(same[0]) == settings(same[1])
    assert settings(same[0]) == {"a": [1, "b"], "c": ["!new:x.Y", {"d": 0.5}]}
    for other in ("a: 1", "a: '1'", "a: 1.5", "a: true", "a: !ref <b>", "a:"):
        assert settings(other) != settings("a: 2"), other
    different = ["a: 1", "a: '1'", "a: !ref <b>", "a: <b>", "a: !new:b", "a: b"]
    found = [settings(text) for text in different]
    assert all(x != y for x in found for y in found if x is not y)


# The files in hparams


@pytest.mark.parametrize("path", FILES, ids=lambda f: f.stem)
def test_every_configuration_loads_and_can_be_saved(tmp_path, path):
    """Without a network; the file that is saved loads like the first."""
    hparams, text = load_hparams(path)
    write_text(tmp_path / "run" / "hyperparams.yaml", text)
    check_same_run(tmp_path / "run", text)
    again, _ = load_hparams(tmp_path / "run" / "hyperparams.yaml")
    assert again.keys() == hparams.keys()
    for key, value in hparams.items():
        assert type(again[key]) is type(value), key
        if isinstance(value, (bool, int, float, str, list, type(None))):
            assert again[key] == value, key


def test_loaded_objects_are_shared_after_saving(tmp_path):
    """What is saved counts the epochs of this run, not those of a copy."""
    _, text = load_hparams(HPARAMS / "base.yaml")
    write_text(tmp_path / "hyperparams.yaml", text)
    again, _ = load_hparams(tmp_path / "hyperparams.yaml")
    assert again["distillation"].distance is again["distance"]
    assert again["distance"] is again["kd_distances"]["smooth_l1"]
    assert again["beta"] is again["kd_schedules"]["exponential"]
    assert again["distillation"].teacher_weights is again["weighting"]
    recoverables = again["checkpointer"].recoverables
    assert recoverables["counter"] is again["epoch_counter"]


@pytest.mark.parametrize("path", SHORT, ids=lambda f: f.stem)
def test_short_configurations_state_what_differs_only(path):
    """In at most 12 lines, the command to run first."""
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 12
    assert lines[0] == f"# python train.py hparams/{path.name}"
    assert "base: base.yaml" in lines


def test_configurations_are_named_after_themselves():
    """Two runs never share an output folder by a forgotten key."""
    for path in FILES:
        hparams, _ = load_hparams(path)
        assert hparams["config"] == path.stem
        assert hparams["output_folder"] == f"results/{path.stem}/1234"


def test_all_cells_of_the_papers_table_are_there():
    """Teacher, professor and hybrid in six columns, and the baseline."""
    columns = "mse_b01 mse_b05 mse_err mae_err mae_exp mae_tri".split()
    expected = {
        f"distill_{row}_{column}"
        for row in ("teacher", "professor", "hybrid")
        for column in columns
    }
    assert expected | {"baseline"} <= {path.stem for path in SHORT}
    assert len(expected | {"baseline"}) == 19
    assert load_hparams(HPARAMS / "baseline.yaml")[0]["teachers"] == []


def test_the_baseline_has_no_teacher_and_no_matching():
    """All else is that of the distillation."""
    base, _ = load_hparams(HPARAMS / "base.yaml")
    hparams, text = load_hparams(HPARAMS / "baseline.yaml")
    assert hparams["distillation"].teachers == []
    assert hparams["matching_weight"] == base["matching_weight"] == 0
    one, two = settings(text), settings(complete_yaml(HPARAMS / "base.yaml"))
    assert {k for k in one if one[k] != two[k]} == {"config", "teachers"}


TEACHERS = {
    "teacher": {"teacher": 1.0},
    "professor": {"professor": 1.0},
    "hybrid": {"teacher": 0.75, "professor": 0.25},
}
DISTANCES = {"mse": MSEDistance, "mae": SmoothL1Distance}
# Weights in epochs 1, 2 and 10 of 20 at an error rate of 0.25.
BETAS = {
    "b01": [0.1, 0.1, 0.1],
    "b05": [0.5, 0.5, 0.5],
    "err": [0.25, 0.25, 0.25],
    "exp": [1.0, 0.36788, 0.00012],
    "tri": [0.0, 0.0, 0.1],
}


@pytest.mark.parametrize(
    "path",
    [f for f in SHORT if f.stem.startswith("distill")],
    ids=lambda f: f.stem,
)
def test_a_configuration_is_what_its_name_says(path):
    """Teachers, their weights, distance and schedule."""
    hparams, _ = load_hparams(path)
    _, row, distance, schedule = path.stem.split("_")
    weights = TEACHERS[row]
    error = torch.tensor(0.25)
    assert hparams["teachers"] == list(weights)
    kd = hparams["distillation"]
    assert kd.teachers == list(weights)
    assert kd.teacher_weights(kd.teachers, error) == pytest.approx(weights)
    assert type(kd.distance) is DISTANCES[distance]
    assert kd.distance.reduction == "mean"
    betas = [float(hparams["beta"](t, error)) for t in (1, 2, 10)]
    assert betas == pytest.approx(BETAS[schedule], abs=1e-5)
    # The paper's settings of the backbone.
    assert hparams["number_of_epochs"] == 20
    assert (hparams["batch_size"], hparams["lr"]) == (64, 0.001)
    assert hparams["seed"] == 1234
    assert hparams["features"] == "stored" and hparams["encoder"] == "sincnet"
    assert hparams["control"] is None
    assert type(hparams["ce_loss"]) is SlotCrossEntropy


def test_triangle_follows_the_number_of_epochs():
    """100 epochs in the shortage scenarios: its peak is at 50."""
    path = HPARAMS / "distill_teacher_mae_tri.yaml"
    hparams, _ = load_hparams(path, {"number_of_epochs": "100"})
    weights = [hparams["beta"](t, 0.0) for t in (10, 25, 50, 75)]
    assert weights == pytest.approx([0, 0, 0.1, 0])


def test_professor_differs_from_the_teacher_in_the_pooling_only():
    """Besides its name; the sentence's vector needs no fine-tuning."""
    models = settings(complete_yaml(HPARAMS / "base.yaml"))["text_models"]
    (kind, teacher), (other, professor) = models["teacher"], models["professor"]
    assert kind == other and teacher.keys() == professor.keys()
    differing = {k for k in teacher if teacher[k] != professor[k]}
    assert differing == {"name", "pooling"}
    hparams, _ = load_hparams(HPARAMS / "base.yaml")
    poolings = {
        "teacher": ClsPooling,
        "professor": MaxPooling,
        "sentence": MeanPooling,
    }
    assert hparams["text_models"].keys() == poolings.keys()
    for name, model in hparams["text_models"].items():
        assert model.name == name and model.max_length == 60
        assert type(model.pooling) is poolings[name]
        assert (model.fine_tuning is None) == (name == "sentence")


def test_an_object_without_arguments_takes_some(short):
    """Its class stays, as that of an object that has arguments does."""
    in_file, _ = load_hparams(short("plain: {inplace: True}\n"))
    typed, _ = load_hparams(short(), {"plain": "{inplace: True}"})
    for plain in (in_file["plain"], typed["plain"]):
        assert type(plain) is torch.nn.ReLU and plain.inplace


# Menus

MENUS = {
    "encoder": (
        "make_encoder",
        {
            "sincnet": SincNetEncoder,
            "transformer": TransformerEncoder,
            "speechbrain": SpeechBrainEncoder,
        },
    ),
    "teacher_control": (
        "control",
        {
            "shuffled_rows": ShuffledRows,
            "intent_means": IntentMeans,
            "one_hot": OneHot,
            "none": type(None),
        },
    ),
    "kd_distance": (
        "distance",
        {
            "mse": MSEDistance,
            "smooth_l1": SmoothL1Distance,
            "l1": L1Distance,
            "kl": KLDistance,
        },
    ),
}


@pytest.mark.parametrize("key", MENUS)
def test_a_choice_is_what_its_menu_says(key):
    """All that is on the menu can be chosen."""
    made, menu = MENUS[key]
    for choice, kind in menu.items():
        hparams, _ = load_hparams(HPARAMS / "base.yaml", {key: choice})
        value = hparams[made]
        assert getattr(value, "func", type(value)) is kind, choice


def test_features_are_what_their_menu_says():
    """One kind is stored; of the others, two train the encoder."""
    makers = {}
    names = "stored on_the_fly dropout unfreeze_word unfreeze_all".split()
    for name in names:
        hparams, _ = load_hparams(HPARAMS / "base.yaml", {"features": name})
        assert list(hparams["feature_makers"]) == names
        makers[name] = hparams["make_features"]
        assert makers[name].keywords["sample_rate"] == 16000
    kinds = [maker.func.__name__ for maker in makers.values()]
    assert kinds == ["Stored"] + ["OnTheFly"] * 4
    assert makers["dropout"].keywords["dropout"] is True
    for name in ("word", "all"):
        unfreezing = makers[f"unfreeze_{name}"].keywords["unfreezing"]
        assert unfreezing.modules == name
    assert "unfreezing" not in makers["dropout"].keywords


@pytest.mark.parametrize(
    "key", "encoder features teacher_control kd_distance kd_schedule".split()
)
def test_a_choice_that_is_on_no_menu_is_one_sentence(tmp_path, key):
    """With all that is; in a file and on the command line."""
    base = HPARAMS / "base.yaml"
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(f"base: {base}\n{key}: rocket\n")
    for message in (
        message_of(wrong),
        message_of(base, {key: "rocket"}),
        message_of(base, {key: "1"}),
    ):
        assert f"'{key}' is '" in message
        assert "which is not one of " in message
        choices = message.split("not one of ")[1].split(", ")
        assert load_hparams(base)[0][key] in choices and len(choices) > 2


def test_an_argument_of_an_entry_leaves_the_others():
    """Classes stay, at every depth of a menu."""
    overrides = {
        "fine_tuning": "{lr: 0.00001, loss: {label_smoothing: 0.1}}",
        "kd_schedules": "{triangular: {peak: 0.4}}",
        "teacher_controls": "{one_hot: {true_logit: 3.0}}",
        "feature_makers": "{unfreeze_word: {unfreezing: {modules: all}}}",
        "encoders": "{sincnet: {hidden_size: 64}}",
        "student": "{hidden_size: 64}",
        "opt_class": "{eps: 0.001}",
    }
    base, _ = load_hparams(HPARAMS / "base.yaml")
    hparams, _ = load_hparams(HPARAMS / "base.yaml", overrides)
    tuning, before = hparams["fine_tuning"], base["fine_tuning"]
    assert tuning.keys() == before.keys()
    assert tuning["lr"] == 1e-5 and tuning["batch_size"] == 16
    assert tuning["opt_class"].func is torch.optim.AdamW
    assert tuning["opt_class"].keywords == before["opt_class"].keywords
    assert type(tuning["loss"]) is SlotCrossEntropy
    assert tuning["loss"].label_smoothing == 0.1
    for name in ("teacher", "professor"):
        assert hparams["text_models"][name].fine_tuning["lr"] == 1e-5
    triangle = hparams["kd_schedules"]["triangular"]
    assert type(triangle) is TriangularWeight
    assert (triangle.peak, triangle.middle) == (0.4, 10)
    assert type(hparams["kd_schedules"]["constant"]) is ConstantWeight
    control = hparams["teacher_controls"]["one_hot"]
    assert (type(control), control.true_logit) == (OneHot, 3.0)
    maker = hparams["feature_makers"]["unfreeze_word"]
    assert maker.keywords["unfreezing"].modules == "all"
    assert hparams["make_encoder"].func is SincNetEncoder
    assert hparams["make_encoder"].keywords["hidden_size"] == 64
    student = hparams["student"](num_logits=5)
    assert student.frame_size == 128 and student.dropout.p == 0.5
    assert hparams["opt_class"].func is torch.optim.Adam
    assert hparams["opt_class"].keywords["lr"] == 0.001


def test_scalars_reach_what_they_are_for():
    """A switch beside a menu sets the argument of its entry."""
    overrides = {
        "kd_distance": "kl",
        "kd_temperature": "2.0",
        "kd_reduction": "sum",
        "kd_schedule": "constant",
        "kd_weight": "0.3",
        "teacher_weights": "batch_error",
        "teachers": "[professor, teacher]",
        "label_smoothing": "0.1",
        "encoder": "transformer",
        "encoder_layers": "2 4",
        "encoder_pool": "4",
        "feature_dtype": "float16",
        "matching_weight": "0.5",
    }
    hparams, _ = load_hparams(HPARAMS / "base.yaml", overrides)
    kd = hparams["distillation"]
    assert type(kd.distance) is KLDistance and kd.distance.temperature == 2.0
    assert hparams["kd_distances"]["mse"].reduction == "sum"
    assert hparams["beta"](7, 0.9) == 0.3
    given = kd.teacher_weights(kd.teachers, 0.25)
    assert given == {"teacher": 0.75, "professor": 0.25}
    assert hparams["ce_loss"].label_smoothing == 0.1
    assert hparams["fine_tuning"]["loss"].label_smoothing == 0.0
    assert hparams["make_encoder"].keywords["layers"] == "2 4"
    assert hparams["make_encoder"].keywords["pool"] == 4
    assert hparams["make_features"].keywords["dtype"] == "float16"
    assert hparams["matching"](4, 2).weight == 0.5


def test_weights_that_do_not_go_with_the_teachers_are_one_sentence():
    """gamma needs a teacher and a professor."""
    path = HPARAMS / "distill_teacher_mae_exp.yaml"
    message = message_of(path, {"teacher_weights": "batch_error"})
    assert "name the same in both" in message
    message = message_of(path, {"fixed_weights": "{professor: 1.0}"})
    assert "fixed_weights has weights for professor" in message


@pytest.mark.parametrize("base", ["10", "null"])
def test_a_number_that_may_be_null_stays_a_number(base, tmp_path):
    """Whatever a file says now; null and numbers can be typed, text cannot."""
    (tmp_path / "base.yaml").write_text(f"valid_hours: {base}\n")
    path = tmp_path / "all.yaml"
    path.write_text("base: base.yaml\nvalid_hours: null\n")
    assert load_hparams(path)[0]["valid_hours"] is None
    for text, value in (("0.25", 0.25), ("3", 3), ("null", None)):
        hparams, _ = load_hparams(path, {"valid_hours": text})
        assert hparams["valid_hours"] == value
        assert not isinstance(hparams["valid_hours"], str)
    for text in ("short", "-1", "0"):
        message = message_of(path, {"valid_hours": text})
        assert "valid_hours" in message and "number" in message
