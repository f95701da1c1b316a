"""The command line of a run, and whether a folder holds the same run."""

import logging
import shutil
import sys
from pathlib import Path

import pytest
import torch
from speechbrain.utils.epoch_loop import EpochCounter

from slu_kd_lobes.training.checkpoints import MadeFrom, WholeCheckpointer
from slu_kd_lobes.training.hparams import complete_yaml, load_hparams, settings
from slu_kd_lobes.training.run_folder import (
    SHAPES_NO_NUMBER,
    check_same_run,
    differing_keys,
    one_sentence_errors,
    open_folder,
    parse_arguments,
    split_arguments,
    start_or_resume,
)
from slu_kd_lobes.utils.files import write_text

ROOT = Path(__file__).resolve().parents[1]
BASE = ROOT / "hparams" / "base.yaml"
RECIPE = complete_yaml(BASE)

COMPLETE = """\
# A complete configuration.
lr: 0.001  # of Adam
kind: plain
nested:
    one: 1
    two: 2
loss: !new:torch.nn.SmoothL1Loss
    reduction: sum
    beta: 0.5
num_workers: 0
"""


# The command line


@pytest.mark.parametrize(
    "value",
    [
        "0.1",
        "My Corpus #2",
        "a = b",
        "v=2",
        "a: b",
        "[a, b]",
        "{one: 1}",
        "-1",
        "- a",
        "~/x",
        "C:\\data",
        "'x'",
        "null",
        "!new:torch.nn.MSELoss",
        "/data/x--y",
        "Öl",
    ],
)
def test_both_forms_give_what_was_typed(value):
    """With an equals sign, and as the next word."""
    for form in ([f"--key={value}"], ["--key", value]):
        own, overrides = split_arguments(["a.yaml", *form, "--lr=1"], [])
        assert own == ["a.yaml"]
        assert overrides == {"key": value, "lr": "1"}


def test_a_value_may_be_empty_or_look_like_a_key():
    """Behind an equals sign."""
    own, overrides = split_arguments(["--a=", "--b=--c", "--d==e"], [])
    assert own == [] and overrides == {"a": "", "b": "--c", "d": "=e"}


def test_options_of_the_program_stay_as_they_are():
    """In both forms, with a hyphen or not, and as switches."""
    options = ["device", "debug", "max_grad_norm"]
    words = ["a.yaml", "--device", "cpu", "--lr", "1", "--debug", "--x=2"]
    words += ["--max-grad-norm=3", "--device=meta", "--debug"]
    own, overrides = split_arguments(words, options)
    assert overrides == {"lr": "1", "x": "2"}
    expected = ["a.yaml", "--device", "cpu", "--debug", "--max-grad-norm=3"]
    assert own == [*expected, "--device=meta", "--debug"]


def test_the_last_of_two_values_counts():
    """As of all programs."""
    assert split_arguments(["--lr=1", "--lr", "2"], [])[1] == {"lr": "2"}


@pytest.mark.parametrize("words", [["--lr"], ["--lr", "--seed=1"]])
def test_a_key_without_a_value_is_refused(words):
    """At the end, and before another key."""
    with pytest.raises(
        ValueError, match="^--lr has no value: give --lr=VALUE$"
    ):
        split_arguments(["a.yaml", *words], ["device"])


def test_keys_are_those_of_the_configuration():
    """An unknown one is refused with a hint, whatever its form."""
    for words in (["--bach_size=3"], ["--bach_size", "3"]):
        _, overrides = split_arguments(words, [])
        with pytest.raises(ValueError) as caught:
            complete_yaml(BASE, overrides)
        assert str(caught.value) == (
            "command line: there is no key 'bach_size'; did you mean "
            "'batch_size'?"
        )


def test_a_command_line_is_read_as_a_whole():
    """Options for SpeechBrain, keys for the configuration, in any order."""
    words = [str(BASE), "--data_folder", "My Corpus #2", "--device=cpu"]
    words += ["--noprogressbar", "--lr=1e-4", "--debug_batches", "3"]
    path, run_opts, overrides = parse_arguments(words)
    assert path == str(BASE)
    assert run_opts["device"] == "cpu" and run_opts["debug_batches"] == 3
    assert run_opts["noprogressbar"] is True
    assert overrides == {"data_folder": "My Corpus #2", "lr": "1e-4"}
    assert load_hparams(path, overrides)[0]["data_folder"] == "My Corpus #2"
    assert not torch.distributed.is_initialized()


def test_a_device_is_chosen_where_none_is_given():
    """And one that talks between processes goes with a CPU."""
    _, run_opts, _ = parse_arguments([str(BASE)])
    found = "cuda" if torch.cuda.is_available() else "cpu"
    assert run_opts["device"].split(":")[0] == found
    _, run_opts, _ = parse_arguments([str(BASE), "--device", "cpu"])
    assert run_opts["distributed_backend"] == "gloo"


@pytest.mark.parametrize("words", [[], ["--lr=1"], ["--device=cpu"]])
def test_a_configuration_comes_first(words):
    with pytest.raises(ValueError, match="^give a configuration first, such"):
        parse_arguments(words)


# The folder of a run


@pytest.fixture
def run_of(tmp_path):
    """Writes a configuration as that of a run; returns its folder."""

    def write(text):
        write_text(tmp_path / "run" / "hyperparams.yaml", text)
        return tmp_path / "run"

    return write


def test_a_run_goes_on_with_its_own_configuration(tmp_path, run_of):
    """What is free may change; nothing else may."""
    check_same_run(tmp_path / "run", COMPLETE)  # a run that has not begun
    folder = run_of(COMPLETE)
    check_same_run(folder, COMPLETE)
    for old, new, key in (
        ("0.001", "0.5", "lr"),
        ("one: 1", "one: 2", "nested"),
        ("beta: 0.5", "beta: 0.1", "loss"),
        ("SmoothL1Loss", "HuberLoss", "loss"),
        ("kind: plain", "kind: 'null'", "kind"),
        ("kind: plain", "kind:", "kind"),
    ):
        with pytest.raises(ValueError) as caught:
            check_same_run(folder, COMPLETE.replace(old, new))
        assert str(caught.value) == (
            f"{folder} holds a run of another configuration (different: {key})"
            f": give --output_folder={folder}-2, or delete that folder"
        )
    check_same_run(folder, COMPLETE.replace("num_workers: 0", "num_workers: 3"))


def test_all_that_differs_is_named(run_of):
    """In the order of the configuration."""
    folder = run_of(COMPLETE)
    text = COMPLETE.replace("two: 2", "two: 3").replace("0.001", "0.1")
    with pytest.raises(ValueError, match=r"\(different: lr, nested\)"):
        check_same_run(folder, text.replace("num_workers: 0", "num_workers: 1"))


def test_what_shapes_no_number_may_change(run_of):
    """Places, processes that read, and which epoch is tested."""
    folder = run_of(RECIPE)
    free = {"num_workers": "3", "skip_prep": "True", "test_epoch": "best"}
    places = [key for key in settings(RECIPE) if key.endswith("_folder")]
    assert len(places) > 6
    free.update(dict.fromkeys(places, "/else/where"))
    free.update(encoder_source="/models/encoder", text_encoder="/models/bert")
    check_same_run(folder, complete_yaml(BASE, free))


@pytest.mark.parametrize(
    "key, value",
    [
        ("seed", "1"),
        ("lr", "0.01"),
        ("batch_size", "8"),
        ("valid_every", "2"),
        ("train_fraction", "0.1"),
        ("subset_seed", "1"),
        ("slots", "[action]"),
        ("features", "on_the_fly"),
        ("feature_dtype", "float16"),
        ("teachers", "[professor]"),
        ("fine_tuning", "{lr: 0.00001}"),
        ("kd_schedule", "triangular"),
        ("student", "{hidden_size: 64}"),
        ("max_tokens", "30"),
    ],
)
def test_what_shapes_numbers_may_not_change(run_of, key, value):
    """Of the recipe's own configuration."""
    folder = run_of(RECIPE)
    with pytest.raises(ValueError, match=rf"\(different: {key}\)"):
        check_same_run(folder, complete_yaml(BASE, {key: value}))


def test_a_recipe_may_free_more_keys(run_of):
    """Those that it names, and no others."""
    folder = run_of(COMPLETE)
    text = COMPLETE.replace("0.001", "0.1")
    check_same_run(folder, text, free=["lr"])
    with pytest.raises(ValueError, match=r"\(different: kind\)"):
        check_same_run(folder, text.replace("plain", "odd"), free=["lr"])


def test_keys_that_shape_no_number_are_keys():
    """Of one of the configurations: none was renamed and forgotten."""
    files = [*ROOT.glob("hparams/*.yaml"), *ROOT.glob("recipes/*/*/hparams/*")]
    keys = set().union(
        *(settings(path.read_text(encoding="utf-8")) for path in files)
    )
    assert SHAPES_NO_NUMBER - keys == set()


def test_keys_of_another_version_are_refused(run_of):
    """One that was added since, or dropped: one sentence, no list."""
    more = f"{COMPLETE}new: 1\n"
    for saved, now in ((COMPLETE, more), (more, COMPLETE)):
        folder = run_of(saved)
        with pytest.raises(ValueError) as caught:
            check_same_run(folder, now)
        assert str(caught.value) == (
            f"{folder} holds a run of another version of this recipe: give "
            f"--output_folder={folder}-2, or delete that folder"
        )


@pytest.mark.parametrize(
    "content", [b"", b"\0\0", b"lr", b"- 1", b"\xff\xfe", b"a: [1", b"1: \n2"]
)
def test_a_damaged_configuration_is_one_sentence(run_of, content):
    """Whatever a crash left of it, and it says what to do."""
    folder = run_of(COMPLETE)
    (folder / "hyperparams.yaml").write_bytes(content)
    with pytest.raises(ValueError, match="hyperparams.yaml is damaged") as told:
        check_same_run(folder, COMPLETE)
    assert "-2, or delete that folder" in str(told.value)
    assert "\n" not in str(told.value)


def test_comments_do_not_make_another_configuration(run_of):
    """Nor do blank lines, wherever they stand, nor the order of keys."""
    folder = run_of(COMPLETE)
    lines = [f"{line}  # why\n\n# A section." for line in COMPLETE.splitlines()]
    check_same_run(folder, "\n".join(lines))
    check_same_run(
        folder, "num_workers: 2\n" + COMPLETE[: COMPLETE.index("num")]
    )


def test_a_hash_in_a_text_is_no_comment(run_of):
    """What stands after it counts."""
    folder = run_of(COMPLETE.replace("plain", "'run #1'"))
    with pytest.raises(ValueError, match=r"different: kind\)"):
        check_same_run(folder, COMPLETE.replace("plain", "'run #2'"))
    check_same_run(folder, COMPLETE.replace("plain", '"run #1"'))


def test_keys_are_compared_by_what_they_mean():
    """Numbers by value, lists by order."""
    first = settings("a: 1\nb: [1, 2]\nc: 1e-3\nnum_workers: 1")
    second = settings("a: 1.0\nb: [2, 1]\nc: 0.001\nnum_workers: 2")
    assert differing_keys(first, second) == ["b"]


# Going on, and what is taken over


class Starts:
    """Starts a run as a program does; says what it was told."""

    def __init__(self, folder):
        self.folder = folder / "results" / "run"
        self.data = "a0"  # its fingerprint

    def __call__(self, *words):
        words = [str(BASE), f"--output_folder={self.folder}", *words]
        try:
            with one_sentence_errors():
                path, _, overrides = parse_arguments(words)
                hparams, text = load_hparams(path, overrides)
                open_folder(hparams, text)
                made_from = {"train data": self.data}
                start_or_resume(hparams, text, made_from)
        except SystemExit as told:
            return told.code
        return "started"

    def saved(self):
        """The configuration in the folder."""
        text = (self.folder / "hyperparams.yaml").read_text(encoding="utf-8")
        return settings(text)

    def train(self, epochs, end_of_epoch=True):
        """Leaves the checkpoint of an epoch."""
        counter = EpochCounter(99)
        counter.current = epochs
        made_from = MadeFrom({"train data": self.data})
        recoverables = {"counter": counter, "made_from": made_from}
        checkpointer = WholeCheckpointer(self.folder / "save", recoverables)
        checkpointer.save_checkpoint(end_of_epoch=end_of_epoch)


@pytest.fixture
def start(tmp_path, monkeypatch):
    """A folder of a run, and what begins it."""
    # SpeechBrain replaces the hook at the start of an experiment.
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.chdir(tmp_path)
    return Starts(tmp_path)


def test_what_has_trained_nothing_blocks_nothing(start):
    """A wrong command before the first checkpoint, whatever it said."""
    assert start("--lr", "0.5", "--slots=[colour]") == "started"
    assert start.saved()["slots"] == ["colour"]
    assert start("--kd_schedule=triangular") == "started"
    assert start.saved()["slots"] == ["action", "object", "location"]
    assert start.saved()["lr"] == 0.001


def test_a_trained_run_is_not_taken_over(start):
    """A checkpoint, or metrics alone, are worth something."""
    assert start("--lr=0.5") == "started"
    start.train(1)
    for _ in range(2):
        told = start("--lr=0.4")
        assert told == (
            f"error: {start.folder} holds a run of another configuration "
            f"(different: lr): give --output_folder={start.folder}-2, or "
            "delete that folder"
        )
        assert start.saved()["lr"] == 0.5
        shutil.rmtree(start.folder / "save")
        (start.folder / "metrics.json").write_text("{}")
    assert start("--lr=0.5", "--num_workers=2") == "started"
    assert start.saved()["num_workers"] == 2
    assert (start.folder / "metrics.json").exists()


def test_a_refused_command_leaves_a_run_as_it_is(start):
    """The same settings with other data, then with its own again."""
    assert start("--data_folder=/one", "--number_of_epochs=20") == "started"
    start.train(20)
    (start.folder / "metrics.json").write_text("{}")
    start.data = "b1"
    assert start("--data_folder=/two", "--number_of_epochs=30") == (
        f"error: the run in {start.folder} was made from another train data: "
        f"give --output_folder={start.folder}-2, or delete that folder"
    )
    assert start.saved()["data_folder"] == "/one"
    assert (start.folder / "metrics.json").exists()
    start.data = "a0"
    assert start("--data_folder=/moved", "--number_of_epochs=20") == "started"
    assert start.saved()["data_folder"] == "/moved"
    assert (start.folder / "metrics.json").exists()


def test_epochs_can_be_added_and_those_to_come_left_out(start):
    """Those that are done stay; metrics of another end go."""
    assert start("--number_of_epochs=20") == "started"
    start.train(20)
    for epochs, known in ((20, True), (30, False)):
        (start.folder / "metrics.json").write_text("{}")
        assert start(f"--number_of_epochs={epochs}") == "started"
        assert start.saved()["number_of_epochs"] == epochs
        assert (start.folder / "metrics.json").exists() == known
    start.train(26, end_of_epoch=False)
    assert start("--number_of_epochs=25") == "started"
    assert start("--number_of_epochs=24") == (
        f"error: {start.folder} holds a run that has finished 25 epochs, more "
        "than number_of_epochs (24): give at least 25; or give "
        f"--output_folder={start.folder}-2, or delete that folder"
    )
    told = start("--number_of_epochs=40", "--lr=0.1")
    assert "(different: number_of_epochs, lr)" in told


def test_epochs_cannot_be_added_to_a_schedule_that_follows_them(start):
    """Its first epochs would have been others."""
    triangular = "--kd_schedule=triangular"
    assert start(triangular) == "started"
    start.train(20)
    assert start(triangular, "--number_of_epochs=30") == (
        f"error: {start.folder} holds a run of 20 epochs, and kd_schedule "
        "'triangular' would have been another one with 30: give "
        f"--output_folder={start.folder}-2, or delete that folder"
    )


# Mistakes


@pytest.mark.parametrize("error", [ValueError, FileNotFoundError, OSError])
def test_bad_input_ends_the_program_with_one_sentence(error, caplog):
    """On standard error, status 1; the traceback is for the debug log."""
    with caplog.at_level(logging.DEBUG, "slu_kd_lobes.training.run_folder"):
        with pytest.raises(SystemExit) as caught, one_sentence_errors():
            raise error("train.csv is empty")
    assert caught.value.code == "error: train.csv is empty"
    assert caught.value.__suppress_context__
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("error", [KeyError, RuntimeError, KeyboardInterrupt])
def test_other_errors_keep_their_traceback(error):
    """They are mistakes of the program, not of its user."""
    with pytest.raises(error), one_sentence_errors():
        raise error("not the user's fault")
