"""The command line of a run, and the folder that it fills."""

import logging
from contextlib import contextmanager
from pathlib import Path

import speechbrain as sb
import torch
from speechbrain.utils.distributed import (
    ddp_barrier,
    ddp_init_group,
    infer_device,
    is_distributed_initialized,
    run_on_main,
)
from speechbrain.utils.run_opts import RunOptions

from slu_kd_lobes.training.checkpoints import beside, check_origin
from slu_kd_lobes.training.hparams import CHOICE, COMMAND_LINE, settings
from slu_kd_lobes.training.ranges import check_range
from slu_kd_lobes.utils.devices import check_device
from slu_kd_lobes.utils.environment import (
    git_commit,
    package_versions,
    peak_memory_mb,
)
from slu_kd_lobes.utils.files import check_writable, write_json, write_text

logger = logging.getLogger(__name__)

CONFIGURATION, METRICS = "hyperparams.yaml", "metrics.json"

#: Keys that shape no number. A run may go on, or be found again, with others:
#: places (hashes tell what lies there), names, and how the work is done.
SHAPES_NO_NUMBER = frozenset(
    "config output_folder save_folder train_log tensorboard_folder "
    "manifest_folder data_folder csv_folder encoder_source feature_folder "
    "teacher_folder text_encoder transcript_folder recogniser_source "
    "alignment_folder other_folder start_from export_folder data_description "
    "speech_model text_model token_folder aligned_folder alignment "
    "train_manifest valid_manifest pretraining_folder speech_folder "
    "token_encoder pretrained trained acoustic_model acoustic_file "
    "encoder_folder tokeniser_source kmeans_source "
    "num_workers utterances_in_memory skip_prep test_epoch".split()
)


def split_arguments(arguments, options):
    """Sets the keys of a configuration apart from a program's own options.

    Arguments
    ---------
    arguments : list of str
        ``--key=value`` or ``--key value``.
    options : iterable of str
        Options of the program, without dashes.

    Returns
    -------
    own : list of str
        Those of the program, and what belongs to no key.
    overrides : dict
        The other values, as they were typed, by key.

    Raises
    ------
    ValueError
        If a key has no value.

    Example
    -------
    >>> split_arguments(
    ...     ["base.yaml", "--device=cpu", "--lr", "0.1", "--name=a = b #2"],
    ...     ["device"],
    ... )
    (['base.yaml', '--device=cpu'], {'lr': '0.1', 'name': 'a = b #2'})
    """
    own, overrides, left = [], {}, list(arguments)
    while left:
        argument = left.pop(0)
        key, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or argument == "--help":
            own.append(argument)
        elif key in options or key.replace("-", "_") in options:
            own.append(argument)
            if not equals and left and not left[0].startswith("--"):
                own.append(left.pop(0))
        elif equals:
            overrides[key] = value
        elif left and not left[0].startswith("--"):
            overrides[key] = left.pop(0)
        else:
            raise ValueError(f"--{key} has no value: give --{key}=VALUE")
    return own, overrides


def parse_arguments(arguments):
    """Reads the command line of a script, and joins the processes of torchrun.

    Arguments
    ---------
    arguments : list of str
        The configuration, then options of SpeechBrain and keys of the
        configuration.

    Returns
    -------
    hparams_file : str
    run_opts : speechbrain.utils.run_opts.RunOptions
        With the device.
    overrides : dict
        What was typed, by key of the configuration.

    Raises
    ------
    ValueError
        If there is no configuration, a key has no value, or an option one
        that cannot be used.
    """
    own, overrides = split_arguments(arguments, RunOptions().as_dict())
    if "--help" in own or "-h" in own:
        sb.parse_arguments(["--help"])  # prints, and leaves
    if not own or own[0].startswith("--"):
        raise ValueError(
            "give a configuration first, such as hparams/baseline.yaml"
        )
    _, run_opts, _ = sb.parse_arguments(own)
    for key, value in run_opts.items():
        check_range(key, value, COMMAND_LINE)
    device = run_opts.device or infer_device()
    check_device(device)
    own.append(f"--device={device}")
    if device == "cpu":
        own.append("--distributed_backend=gloo")
    hparams_file, run_opts, _ = sb.parse_arguments(own)
    ddp_init_group(run_opts)
    return hparams_file, run_opts, overrides


def open_folder(hparams, text, free=()):
    """Makes the folder of a run; refuses that of another one, before any work.

    A folder in which nothing was trained yet is taken, whatever was tried
    there. A run goes on to more epochs than it had: to the same numbers as if
    it had had them from the start. Only the validation of its former last
    epoch, if `valid_every` leaves that one out, is one more.

    Arguments
    ---------
    hparams : dict
        With ``output_folder``, perhaps a ``checkpointer``.
    text : str
        The complete YAML of the run.
    free : iterable of str
        Keys that may differ although they shape numbers, and that may follow
        `number_of_epochs` although that grows.

    Raises
    ------
    ValueError
        If the folder holds another run.
    OSError
        If it cannot be written to.
    """
    folder = Path(hparams["output_folder"])
    checkpointer = hparams.get("checkpointer")
    checkpoint = checkpointer and checkpointer.find_checkpoint()
    if checkpoint or (folder / METRICS).is_file():
        done = trained_epochs(checkpoint) if checkpoint else 0
        check_same_run(folder, text, free, done)
    check_writable(folder, megabytes=100)
    sb.create_experiment_directory(str(folder))


def start_or_resume(hparams, text, made_from=None, **recoverables):
    """Starts a run in its folder, or goes on with what is there.

    Arguments
    ---------
    hparams, text
        See `open_folder`, which comes first. The text is kept as
        ``hyperparams.yaml``, which can itself be run.
    made_from : dict or None
        Fingerprints of all that shapes the run beside its configuration.
    **recoverables
        What else refuses a checkpoint of another kind, such as a SlotSchema.

    Raises
    ------
    ValueError
        If what is there is of another origin; it stays as it is.
    """
    if "checkpointer" in hparams:
        check_origin(hparams["checkpointer"], made_from or {}, **recoverables)
    run_on_main(_keep, [Path(hparams["output_folder"]), text])


def _keep(folder, text):
    """Writes the configuration; removes the metrics of another end."""
    saved = folder / CONFIGURATION
    if saved.is_file():
        old, new = _settings_of(saved), settings(text)
        ends = "number_of_epochs", "test_epoch"
        if any(old.get(key) != new.get(key) for key in ends):
            (folder / METRICS).unlink(missing_ok=True)
    write_text(saved, text)


def _settings_of(path):
    try:
        return settings(path.read_text(encoding="utf-8"), path)
    except ValueError as error:  # also of bytes that are no text
        raise ValueError(
            f"{path} is damaged ({error}): {beside(path.parent)}"
        ) from error


def is_finished(hparams, *made):
    """Whether a run that was started before has nothing left to do.

    Arguments
    ---------
    hparams : dict
        With ``output_folder``; `start_or_resume` comes first, which refuses
        what is there of another origin.
    *made : str or Path
        Files that it leaves beside its metrics.

    Returns
    -------
    bool
    """
    path = Path(hparams["output_folder"]) / METRICS
    finished = all(Path(file).is_file() for file in (path, *made))
    if finished:
        logger.info(f"{path} is there: nothing to do")
    return finished


def trained_epochs(checkpoint):
    """How many epochs were finished before a checkpoint.

    Arguments
    ---------
    checkpoint : speechbrain.utils.checkpoints.Checkpoint

    Returns
    -------
    int
    """
    current = int(checkpoint.paramfiles["counter"].read_text(encoding="utf-8"))
    return current if checkpoint.meta["end-of-epoch"] else current - 1


def check_same_run(folder, text, free=(), done=0):
    """Refuses to go on with a run that another configuration began.

    Arguments
    ---------
    folder : str or Path
        Output folder of the run.
    text : str
        The complete YAML of this run.
    free : iterable of str
        See `open_folder`.
    done : int
        Epochs that the run has finished.

    Raises
    ------
    ValueError
        If a key differs that shapes numbers. More epochs, or fewer of those
        that are still to come, are no other run unless the numbers of the
        first epochs follow from how many there are.
    """
    saved = Path(folder) / CONFIGURATION
    if not saved.is_file():
        return
    old, new = _settings_of(saved), settings(text)
    remedy = beside(folder)
    if old.keys() != new.keys():
        raise ValueError(
            f"{folder} holds a run of another version of this recipe: {remedy}"
        )
    epochs = "number_of_epochs"
    differing = [k for k in differing_keys(old, new) if k not in free]
    if [epochs] == differing:
        differing = [k for k in tied_to_epochs(new) if k not in free]
        if differing:
            raise ValueError(
                f"{folder} holds a run of {old[epochs]} epochs, and "
                f"{', '.join(differing)} would have been another one with "
                f"{new[epochs]}: {remedy}"
            )
        if new[epochs] < done:
            raise ValueError(
                f"{folder} holds a run that has finished {done} epochs, more "
                f"than {epochs} ({new[epochs]}): give at least {done}; or "
                f"{remedy}"
            )
    if differing:
        raise ValueError(
            f"{folder} holds a run of another configuration (different: "
            f"{', '.join(differing)}): {remedy}"
        )


def tied_to_epochs(values):
    """What would have been another one in a run of more epochs.

    Arguments
    ---------
    values : dict
        As `slu_kd_lobes.training.hparams.settings` gives them.

    Returns
    -------
    list of str
        Keys, as `users` gives them.

    Example
    -------
    >>> from slu_kd_lobes.training.hparams import settings
    >>> tied_to_epochs(settings("{number_of_epochs: 2, lr: 0.1}"))
    []
    """
    found = users(values, "number_of_epochs")
    return [key for key in found if key != "epoch_counter"]


def users(values, name):
    """Keys whose value follows from that of another key, as chosen.

    Arguments
    ---------
    values : dict
        As `slu_kd_lobes.training.hparams.settings` gives them.
    name : str
        The other key.

    Returns
    -------
    list of str

    Example
    -------
    >>> from slu_kd_lobes.training.hparams import settings
    >>> text = (
    ...     "{n: 1, kind: a, kinds: {a: !ref <n>, b: 2}, c: !ref <n>/x, "
    ...     "one: !apply:operator.getitem [!ref <kinds>, !ref <kind>]}"
    ... )
    >>> users(settings(text), "n")
    ["kind 'a'", 'c']
    >>> users(settings(text.replace("kind: a", "kind: b")), "n")
    ['c']
    """
    choices = {}
    for value in values.values():
        if isinstance(value, list) and value[:1] == [CHOICE]:
            menu, key = (part[1].strip("<>") for part in value[1])
            choices[menu] = key
    found = []
    for key, value in values.items():
        if key in choices:
            choice = values[choices[key]]
            key, value = f"{choices[key]} '{choice}'", value[choice]
        if f"<{name}>" in str(value):
            found.append(key)
    return found


def differing_keys(first, second):
    """Keys that shape numbers and have different values.

    Arguments
    ---------
    first, second : dict
        As `slu_kd_lobes.training.hparams.settings` gives them.

    Returns
    -------
    list of str

    Example
    -------
    >>> differing_keys({"lr": 1, "num_workers": 0}, {"lr": 2, "num_workers": 4})
    ['lr']
    """
    return [
        key
        for key in first
        if first[key] != second[key] and key not in SHAPES_NO_NUMBER
    ]


def write_metrics(hparams, facts):
    """Writes metrics.json, with what each of them tells of its run.

    Arguments
    ---------
    hparams : dict
        With ``output_folder``, ``config`` and ``seed``.
    facts : dict
        What was measured; it does not take the place of the others.

    Returns
    -------
    Path
    """
    path = Path(hparams["output_folder"]) / METRICS
    own = {
        "config": hparams["config"],
        "seed": hparams["seed"],
        "peak_memory_mb": peak_memory_mb(),
        "versions": package_versions(),
        "commit": git_commit(),
    }
    write_json(path, {**own, **facts, **own})
    return path


def finish_run():
    """Leaves the processes of torchrun together: one alone might abort."""
    if is_distributed_initialized():
        ddp_barrier()
        torch.distributed.destroy_process_group()


@contextmanager
def one_sentence_errors():
    """Ends the program with one sentence when an input is wrong.

    For the part of a script before training. The traceback goes to the log
    at debug level.

    Example
    -------
    >>> with one_sentence_errors():
    ...     raise ValueError("train_data.csv is empty")
    Traceback (most recent call last):
    ...
    SystemExit: error: train_data.csv is empty
    """
    try:
        yield
    except (ValueError, OSError) as error:
        logger.debug("Bad input", exc_info=True)
        raise SystemExit(f"error: {error}") from None
