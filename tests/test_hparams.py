"""Short configurations, the command line, and what is said of mistakes."""

import logging
from pathlib import Path

import pytest
import speechbrain as sb
import torch

from slu_kd_lobes import losses, schedules, teachers, unfreezing
from slu_kd_lobes.hparams import (
    check_same_run,
    load_hparams,
    one_sentence_errors,
    plain_values,
    resolve_yaml,
    save_yaml,
)

HPARAMS = Path(__file__).resolve().parents[1] / "hparams"
FILES = sorted(HPARAMS.glob("*.yaml"))
COMPLETE = ("base", "cascade", "teacher")
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
schedule: !new:slu_kd_lobes.schedules.ConstantWeight
    beta: 0.1
nested:
    one: 1
    two: 2
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


def command_line(path, *arguments):
    """What SpeechBrain makes of arguments: the overrides as YAML."""
    _, _, overrides = sb.parse_arguments([str(path), *arguments])
    return overrides


def message_of(path, overrides=""):
    """The one sentence with which a configuration is refused."""
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        load_hparams(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_command_line_wins_over_short_file_over_base(short):
    """Each may state what it changes only."""
    path = short("lr: 0.01\nepochs: 10\n")
    hparams, _ = load_hparams(path, command_line(path, "--epochs=4"))
    assert [hparams[k] for k in ("seed", "lr", "epochs")] == [1234, 0.01, 4]


def test_references_follow_the_changes(short):
    """Whoever makes them."""
    path = short("epochs: 10\n")
    hparams, _ = load_hparams(path, command_line(path, "--seed=7"))
    assert hparams["half"] == 5
    assert hparams["output_folder"] == "results/7"


def test_a_complete_file_needs_no_base(short):
    """And takes the command line alike."""
    path = short().with_name("base.yaml")
    assert load_hparams(path)[0]["half"] == 10
    assert load_hparams(path, "{epochs: 6}")[0]["half"] == 3


def test_another_class_replaces_the_arguments(short):
    """Those of the old class would be unknown to it."""
    hparams, _ = load_hparams(short("loss: !new:torch.nn.MSELoss\n"))
    assert type(hparams["loss"]) is torch.nn.MSELoss
    assert hparams["loss"].reduction == "mean"
    text = (
        "schedule: !new:slu_kd_lobes.schedules.TriangularWeight\n"
        "    epochs: !ref <epochs>\n"
    )
    hparams, _ = load_hparams(short(text))
    assert type(hparams["schedule"]) is schedules.TriangularWeight
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
    overrides = command_line(path, "--schedule={beta: 0.5}")
    assert load_hparams(path, overrides)[0]["schedule"](1, 0.0) == 0.5


def test_mappings_are_merged_and_lists_replaced(short):
    """A list has no keys to merge by."""
    text = "nested: {two: 3}\nteachers: [teacher, professor]\nextra: {a: 1}\n"
    hparams, _ = load_hparams(short(text))
    assert hparams["nested"] == {"one": 1, "two": 3}
    assert hparams["teachers"] == ["teacher", "professor"]
    assert hparams["extra"] == {"a": 1}
    assert load_hparams(short("teachers: []\n"))[0]["teachers"] == []


def test_unknown_key_in_a_file_is_refused_with_a_hint(short):
    """Also a nested one."""
    path = short("epoch: 3\n")
    assert message_of(path) == (
        f"{path}: there is no key 'epoch'; did you mean 'epochs'?"
    )
    assert "'nested.twp'; did you mean 'two'?" in message_of(
        short("nested: {twp: 3}\n")
    )
    assert "'zzz'; see the base file" in message_of(short("zzz: 3\n"))


def test_unknown_key_on_the_command_line_is_refused_with_a_hint(short):
    """SpeechBrain hands it over as it is."""
    path = short()
    assert message_of(path, command_line(path, "--sed=3")) == (
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
    message = message_of(short(), change)
    assert message.startswith("command line: ") and words in message


@pytest.mark.parametrize(
    "change, key, value",
    [
        ("lr: 1e-4", "lr", 1e-4),
        ("lr: 1", "lr", 1),
        ("lr: null", "lr", None),
        ("lr: !ref <epochs> / 10", "lr", 2.0),
        ("store: false", "store", False),
        ("seed: 0", "seed", 0),
    ],
)
def test_values_of_the_right_type_are_taken(short, change, key, value):
    """Any writing of a number; null and references are for the object."""
    assert load_hparams(short(f"{change}\n"))[0][key] == value
    hparams, _ = load_hparams(short(), change)
    assert hparams[key] == value and type(hparams[key]) is type(value)


@pytest.mark.parametrize(
    "change",
    [
        "loss: !new:torch.nn.NoSuchLoss",
        "loss: !new:no_such_package.Loss",
        "lr: !ref <no_such_key>",
        "lr: [1, 2",
        "schedule: {beta: 1.5}",
        "just a sentence",
    ],
)
def test_other_mistakes_are_one_sentence(tmp_path, short, change):
    """A missing class or package, a reference to nothing, no YAML."""
    text = message_of(short(), change)
    assert len(text) < 300, text


def test_missing_files_are_named(tmp_path, short):
    """The configuration, and its base."""
    path = short()
    (tmp_path / "base.yaml").unlink()
    base = tmp_path / "base.yaml"
    assert message_of(path) == f"{path}: its base {base} does not exist"
    path.unlink()
    assert message_of(path) == f"there is no configuration file {path}"


def test_base_is_relative_to_the_file(tmp_path, short):
    """Not to the folder that the program runs in."""
    short()
    folder = tmp_path / "deeper"
    folder.mkdir()
    (folder / "a.yaml").write_text("base: ../base.yaml\nseed: 1\n")
    assert load_hparams(folder / "a.yaml")[0]["seed"] == 1


def test_resolved_yaml_states_everything(short):
    """Every key of the base, with the changes in its place."""
    text = resolve_yaml(short("lr: 0.5\n"), "seed: 3")
    values = plain_values(text)
    assert list(values) == list(plain_values(BASE))
    assert values["lr"] == "lr: 0.5" and values["seed"] == "seed: 3"
    assert "base" not in values


def test_saved_yaml_can_be_run_again(tmp_path, short):
    """On its own: it needs neither the base nor the command line."""
    first, text = load_hparams(short("lr: 0.5\n"), "epochs: 8")
    save_yaml(tmp_path / "run", text)
    again, _ = load_hparams(tmp_path / "run" / "hyperparams.yaml")
    assert first.keys() == again.keys()
    for key in first.keys() - {"loss", "schedule"}:
        assert again[key] == first[key], key
    assert again["schedule"](1, 0.0) == first["schedule"](1, 0.0)


def test_a_run_goes_on_with_its_own_configuration(tmp_path, short):
    """What is free may change; nothing else may."""
    folder = tmp_path / "run"
    text = resolve_yaml(short())
    check_same_run(folder, text)  # a run that has not begun
    save_yaml(folder, text)
    check_same_run(folder, text)
    for change in ("lr: 0.5", "nested: {one: 2}", "loss: {beta: 0.1}"):
        key = change.split(":")[0]
        with pytest.raises(ValueError, match=f"different: {key}\\)"):
            check_same_run(folder, resolve_yaml(short(), change))


def test_what_shapes_no_number_may_change(tmp_path):
    """Processes that read, and which epoch is tested."""
    text = resolve_yaml(HPARAMS / "base.yaml")
    save_yaml(tmp_path / "run", text)
    free = "{num_workers: 3, skip_prep: True, test_epoch: best}"
    check_same_run(tmp_path / "run", resolve_yaml(HPARAMS / "base.yaml", free))


def test_another_key_is_another_configuration(tmp_path, short):
    """One that was added since, or dropped."""
    text = resolve_yaml(short())
    for saved, now in ((text, f"{text}new: 1\n"), (f"{text}new: 1\n", text)):
        save_yaml(tmp_path / "run", saved)
        with pytest.raises(ValueError, match=r"different: new\)"):
            check_same_run(tmp_path / "run", now)


def test_comments_do_not_make_another_configuration(tmp_path, short):
    """Nor do blank lines, wherever they stand."""
    text = resolve_yaml(short())
    save_yaml(tmp_path / "run", text)
    lines = [f"{line}  # why\n\n# A section." for line in text.splitlines()]
    check_same_run(tmp_path / "run", "\n".join(lines))


def test_a_hash_in_a_text_is_no_comment(tmp_path, short):
    """What stands after it counts."""
    path = short()
    save_yaml(tmp_path / "run", resolve_yaml(path, 'output_folder: "run #1"'))
    with pytest.raises(ValueError, match=r"different: output_folder\)"):
        check_same_run(
            tmp_path / "run", resolve_yaml(path, 'output_folder: "run #2"')
        )


@pytest.mark.parametrize("error", [ValueError, FileNotFoundError, OSError])
def test_bad_input_ends_the_program_with_one_sentence(error, caplog):
    """On standard error, status 1; the traceback is for the debug log."""
    with caplog.at_level(logging.DEBUG, "slu_kd_lobes.hparams"):
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


@pytest.mark.parametrize("path", FILES, ids=lambda f: f.stem)
def test_every_configuration_loads_and_can_be_saved(tmp_path, path):
    """Without a network; the file that is saved loads like the first."""
    hparams, text = load_hparams(path)
    save_yaml(tmp_path / "run", text)
    check_same_run(tmp_path / "run", text)
    again, _ = load_hparams(tmp_path / "run" / "hyperparams.yaml")
    assert again.keys() == hparams.keys()
    for key, value in hparams.items():
        assert type(again[key]) is type(value), key
        if isinstance(value, (bool, int, float, str, list, type(None))):
            assert again[key] == value, key


def test_loaded_objects_are_shared_after_saving(tmp_path):
    """The pretrainer fills the encoder that is used, not a copy of it."""
    _, text = load_hparams(HPARAMS / "base.yaml")
    save_yaml(tmp_path / "run", text)
    again, _ = load_hparams(tmp_path / "run" / "hyperparams.yaml")
    loadables = again["pretrainer"].loadables
    assert loadables["encoder"] is again["encoder"]
    assert again["distillation"].distance is again["kd_distance"]
    recoverables = again["checkpointer"].recoverables
    assert recoverables["counter"] is again["epoch_counter"]


@pytest.mark.parametrize("path", SHORT, ids=lambda f: f.stem)
def test_short_configurations_state_what_differs_only(path):
    """In at most 12 lines, the command to run first."""
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 12
    reads_text = path.stem in ("professor", "sentence")
    script = "train_teacher.py" if reads_text else "train.py"
    assert lines[0] == f"# python {script} hparams/{path.name}"
    base = "teacher.yaml" if reads_text else "base.yaml"
    assert f"base: {base}" in lines


def test_configurations_are_named_after_themselves():
    """Two runs never share an output folder by a forgotten key."""
    for path in FILES:
        hparams, _ = load_hparams(path)
        assert hparams.get("config", hparams.get("name")) == path.stem


def test_all_cells_of_the_papers_table_are_there():
    """Teacher, professor and hybrid in six columns, and the baseline."""
    columns = "mse_b01 mse_b05 mse_err mae_err mae_exp mae_tri".split()
    expected = {
        f"distill_{row}_{column}"
        for row in ("teacher", "professor", "hybrid")
        for column in columns
    }
    assert expected | {"baseline"} <= {path.stem for path in SHORT}
    assert load_hparams(HPARAMS / "baseline.yaml")[0]["teachers"] == []


TEACHERS = {
    "teacher": (["teacher"], [1.0]),
    "professor": (["professor"], [1.0]),
    "hybrid": (["teacher", "professor"], [0.75, 0.25]),
}
DISTANCES = {"mse": losses.MSEDistance, "mae": losses.SmoothL1Distance}
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
    names, weights = TEACHERS[row]
    error = torch.tensor(0.25)
    assert hparams["teachers"] == names
    given = hparams["distillation"].teacher_weights(error)
    assert given.tolist() == pytest.approx(weights)
    used = hparams["distillation"].distance
    assert type(used) is DISTANCES[distance] and used.reduction == "mean"
    betas = [float(hparams["kd_schedule"](t, error)) for t in (1, 2, 10)]
    assert betas == pytest.approx(BETAS[schedule], abs=1e-5)
    # The paper's settings of the backbone.
    assert hparams["number_of_epochs"] == 20
    assert (hparams["batch_size"], hparams["lr"]) == (64, 0.001)
    assert hparams["seed"] == 1234
    assert type(hparams["unfreezing"]) is unfreezing.Frozen


def test_triangle_follows_the_number_of_epochs():
    """100 epochs in the shortage scenarios: its peak is at 50."""
    path = HPARAMS / "distill_teacher_mae_tri.yaml"
    hparams, _ = load_hparams(path, "number_of_epochs: 100")
    weights = [hparams["kd_schedule"](t, 0.0) for t in (10, 25, 50, 75)]
    assert weights == pytest.approx([0, 0, 0.1, 0])


def test_professor_differs_from_the_teacher_in_the_pooling_only():
    """Besides its name."""
    teacher = plain_values(resolve_yaml(HPARAMS / "teacher.yaml"))
    professor = plain_values(resolve_yaml(HPARAMS / "professor.yaml"))
    assert teacher.keys() == professor.keys()
    differing = {k for k in teacher if teacher[k] != professor[k]}
    assert differing == {"name", "pooling"}
    hparams, _ = load_hparams(HPARAMS / "professor.yaml")
    assert type(hparams["pooling"]) is teachers.MaxPooling
    assert hparams["max_length"] == 60


def test_an_object_without_arguments_takes_some():
    """Its class stays, as that of an object that has arguments does."""
    hparams, _ = load_hparams(
        HPARAMS / "baseline.yaml", "ce_loss: {label_smoothing: 0.1}"
    )
    assert type(hparams["ce_loss"]).__name__ == "SlotCrossEntropy"
    assert hparams["ce_loss"].label_smoothing == 0.1
    hparams, _ = load_hparams(
        HPARAMS / "base.yaml",
        "kd_distance: !new:slu_kd_lobes.losses.KLDistance {temperature: 2.0}",
    )
    assert hparams["kd_distance"].temperature == 2.0
