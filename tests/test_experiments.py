"""A matrix of runs: what is declared, trained once, tested and reported."""

import csv
import gzip
import importlib.util
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from running import (
    CORPUS,
    ROOT,
    environment,
    metrics_of,
    processes,
    run,
    run_command,
)

from slu_kd_lobes.experiments.engine import parse, read_matrices
from slu_kd_lobes.experiments.matrix import (
    check_tests,
    read_matrix,
    read_systems,
)
from slu_kd_lobes.experiments.records import read_records, write_records
from slu_kd_lobes.experiments.runs import runs_of
from slu_kd_lobes.experiments.tables import make_tables
from slu_kd_lobes.training.hparams import complete_yaml, settings
from slu_kd_lobes.utils.command_line import typed

NO_RAY = (
    "no Ray cluster answers at"
    if importlib.util.find_spec("ray")
    else "Ray is not installed"
)
MATRICES = ROOT / "experiments"
RECIPE = ROOT / "recipes" / "fluent-speech-commands" / "logit_distillation"
MATRIX = """
title: Tiny
reference: no KD
seeds: [1, 2]
breakdown: True
conditions:
  whole: {noise: {split: test, levels: [10, 0, room]}}
  half: {train_fraction: 0.5, draws: 2, seeds: [1]}
  elsewhere: {csv_folder: no_such_splits}
systems:
  no KD: {config: hparams/baseline.yaml, paper: {whole: 1.25}}
  KL, T 2:
"""
SYSTEMS = """
KL, T 2:
  config: hparams/distill_teacher_mse_b05.yaml
  overrides: {kd_distance: kl, kd_temperature: 2.0}
"""


def write_matrix(folder, text=MATRIX, systems=SYSTEMS, name="tiny"):
    (folder / "systems.yaml").write_text(systems, encoding="utf-8")
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def experiments(small, folder, *more, names=("tiny",)):
    """The command line of matrices."""
    options = {key: small[key] for key in ("fine_tuning", "batch_size")}
    options["number_of_epochs"] = 3
    return [
        *(sys.executable, "experiments.py"),
        *(str(folder / f"{name}.yaml") for name in names),
        f"--data_folder={CORPUS}",
        f"--csv_folder={small['csv_folder']}",
        *("--results", str(folder / "results"), "--report", str(folder)),
        *(f"--{key}={value}" for key, value in options.items()),
        *more,
    ]


def run_experiments(small, folder, *more, fails=False, names=("tiny",)):
    return run_command(experiments(small, folder, *more, names=names), fails)


def rows_of(folder, name="runs.csv"):
    with open(folder / "results" / name, encoding="utf-8") as file:
        return list(csv.DictReader(file))


def reported_files(folder):
    """What the command reports, by path and content."""
    results = folder / "results"
    names = ("*.csv", "*.csv.gz", "*.json", "tables/*")
    paths = [path for name in names for path in results.glob(name)]
    return {path.relative_to(folder): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def reported(small, tmp_path_factory):
    """The matrix killed in the middle, and run again to its end."""
    folder = tmp_path_factory.mktemp("experiments")
    write_matrix(folder)
    process = subprocess.Popen(
        experiments(small, folder, "--workers", "2"),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    runs = folder / "results" / "runs"
    deadline = time.time() + 300
    while len(list(runs.glob("*/metrics.json"))) < 2:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.time() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(2)  # the workers notice that they are alone
    first = {
        path.parent.name: path.stat().st_mtime_ns
        for path in runs.glob("*/metrics.json")
    }
    time.sleep(2)
    assert len(list(runs.glob("*/metrics.json"))) == len(first)
    printed = run_experiments(small, folder, "--workers", "2")
    return folder, first, printed


def test_a_killed_matrix_goes_on_and_trains_nothing_twice(reported):
    folder, first, _ = reported
    runs = folder / "results" / "runs"
    finished = list(runs.glob("*/metrics.json"))
    assert len(finished) == 2 * 2 + 2 * 2
    for name, time_ns in first.items():
        assert (runs / name / "metrics.json").stat().st_mtime_ns == time_ns
    assert 2 <= len(first) < len(finished)


def test_what_a_worker_started_ends_with_it(tmp_path):
    """When the command that has the workers was killed."""
    words = [sys.executable, "-c", "import time; time.sleep(60)", str(tmp_path)]
    command = (
        "import subprocess\n"
        "from slu_kd_lobes.experiments.execution import local_pool\n"
        "with local_pool(1) as submit:\n"
        f"    submit(subprocess.run, {words}).result()"
    )
    running = subprocess.Popen([sys.executable, "-c", command], cwd=ROOT)
    for wanted in (True, False):  # it starts, and ends
        deadline = time.time() + 60
        while bool(processes("sleep(60) " + str(tmp_path))) != wanted:
            assert time.time() < deadline
            time.sleep(0.1)
        running.kill()
        running.wait()


def test_the_same_matrix_again_trains_nothing(reported, small):
    """And writes the same bytes."""
    folder, _, _ = reported
    before = {
        path: path.stat().st_mtime_ns
        for path in folder.glob("results/runs/*/metrics.json")
    }
    files = reported_files(folder)
    printed = run_experiments(small, folder)
    assert "runs:" not in printed  # no progress bar
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert reported_files(folder) == files


def test_a_run_is_what_train_gives(reported, small, tmp_path):
    """Killed or not, in a pool or alone: the numbers of train.py."""
    folder, _, _ = reported
    row = next(r for r in rows_of(folder) if r["condition"] == "half")
    # A fraction needs no noise, so the corpus is the one of `small`.
    options = {
        **small,
        "number_of_epochs": 3,
        "train_fraction": 0.5,
        "subset_seed": row["draw"],
        "seed": row["seed"],
        "output_folder": tmp_path / "run",
        "config": "no_KD",
    }
    run("baseline", options)
    made = folder / "results" / "runs" / row["run"]
    assert metrics_of(tmp_path / "run") == metrics_of(made)
    alone = (tmp_path / "run" / "predictions_test.csv").read_text()
    assert alone == (made / "predictions_test.csv").read_text()


# What is reported


def test_tidy_rows_say_what_the_runs_left(reported):
    folder, _, _ = reported
    rows = rows_of(folder)
    sets = {"whole": 6, "half": 3}  # with validation
    assert len(rows) == 2 * 2 * 2 * (sets["whole"] + sets["half"])
    keys = "matrix system condition draw seed run commit n_train n errors"
    for name in keys.split():
        assert all(row[name] != "" for row in rows), name
    for row in rows:
        made = folder / "results" / "runs" / row["run"]
        metrics = metrics_of(made)
        errors = metrics["intent_error_by_epoch"][row["epoch"]]
        percent = 100 * int(row["errors"]) / int(row["n"])
        assert percent == pytest.approx(errors[row["test_set"]], abs=1e-4)
        assert (row["nll"] != "") == (row["epoch"] == "last")
        if row["epoch"] == "last" and row["test_set"] == "test":
            assert float(row["nll"]) == metrics["test"]["nll"]
            assert float(row["ece"]) == metrics["test"]["ece"]
            shares = metrics["test"]["slot_error"]
            for part in row["slot_errors"].split("; "):
                slot, count = part.split("=")
                share = 100 * int(count) / int(row["n"])
                assert share == pytest.approx(shares[slot], abs=1e-4)


def test_items_say_who_is_wrong(reported):
    """Against the predictions and the corpus' CSV file."""
    folder, _, _ = reported
    records = read_records(folder / "results")
    row = next(r for r in rows_of(folder) if r["condition"] == "half")
    made = folder / "results" / "runs" / row["run"]
    with open(made / "predictions_test.csv", encoding="utf-8") as file:
        predictions = sorted(csv.DictReader(file), key=lambda r: r["ID"])
    slots = ("action", "object", "location")
    wrong = [
        any(p[f"{slot}_true"] != p[f"{slot}_predicted"] for slot in slots)
        for p in predictions
    ]
    items = records.of_items(row["run"], "test")
    assert items["wrong"].tolist() == wrong
    with open(CORPUS / "data" / "test_data.csv", encoding="utf-8") as file:
        corpus = {Path(r["path"]).stem: r for r in csv.DictReader(file)}
    about = [corpus[p["ID"].split("--")[-1]] for p in predictions]
    assert items["speaker"] == [r["speakerId"] for r in about]
    texts = [r["transcription"] for r in about]
    assert len(set(items["wording"])) == len(set(texts))
    assert not any(text.encode() in unpacked(folder) for text in texts)


def unpacked(folder):
    """All bytes of the tidy files, unpacked."""
    files = reported_files(folder)
    return b"".join(
        gzip.decompress(content) if path.suffix == ".gz" else content
        for path, content in files.items()
        if path.parent == Path("results")
    )


def test_tables_say_what_the_runs_left(reported):
    folder, _, _ = reported
    path = folder / "results" / "tables" / "tiny.md"
    text = path.read_text(encoding="utf-8")
    own = [
        100 * int(row["errors"]) / int(row["n"])
        for row in rows_of(folder)
        if (row["system"], row["condition"]) == ("KL, T 2", "whole")
        and (row["test_set"], row["epoch"]) == ("test", "last")
    ]
    table = text.split("## whole: `test`")[1].split("##")[0]
    line = next(
        line for line in table.splitlines() if line.startswith("| [KL, T 2]")
    )
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1] == f"{np.mean(own):.2f} ± {np.std(own, ddof=1):.2f}"
    assert cells[2] == "2"
    for split in ("room_test", "noise_10_test", "noise_0_test", "utt_test"):
        assert f"## whole: `{split}`" in text
    assert text.count("1.25") == 1  # the paper's, of its own test set alone
    assert "## elsewhere\n\nThe corpus lacks it." in text
    assert "by speaker" in text and "by length" in text
    assert "Made with 8 runs" in text and "torch 2." in text
    knows = text.split("## What the teachers say beyond the labels")[1]
    assert "| whole | teacher | 1 |" in knows  # two seeds share one
    assert "| half | teacher | 2 |" in knows  # of two draws
    (link,) = set(re.findall(r"\[KL, T 2\]\(([^)]*)\)\* \|", text))
    config = ROOT / "hparams" / "distill_teacher_mse_b05.yaml"
    assert (path.parent / link).samefile(config)


def test_tables_need_neither_corpus_nor_runs(reported, tmp_path_factory):
    """The same bytes from the tidy files and the matrix alone."""
    folder, _, _ = reported
    copy = tmp_path_factory.mktemp("copy")  # beside it, so links are the same
    write_matrix(copy)
    (copy / "results").mkdir()
    for path in reported_files(folder):
        if path.parent == Path("results"):
            shutil.copy(folder / path, copy / path)
    command = [sys.executable, "experiments.py", str(copy / "tiny.yaml")]
    command += [str(copy / "systems.yaml")]  # as *.yaml gives it
    printed = run_command([*command, "--tables", "--report", str(copy)])
    assert printed.split() == [str(copy / "results" / "tables" / "tiny.md")]
    assert reported_files(copy) == reported_files(folder)
    matrices = [read_matrix(copy / "tiny.yaml")]
    ((path, text),) = make_tables(matrices, copy / "results").items()
    assert path.read_text(encoding="utf-8") == text


def test_report_in_html_needs_no_other_file(reported):
    """It is written when it is asked for."""
    folder, _, _ = reported
    path = folder / "results" / "report.html"
    assert not path.exists()
    command = [sys.executable, "experiments.py", str(folder / "tiny.yaml")]
    run_command([*command, "--tables", "--html", "--report", str(folder)])
    page = path.read_text(encoding="utf-8")
    sources = re.findall('src="([^"]*)"', page)
    figures = list(folder.glob("results/figures/*.png"))
    assert len(sources) == len(figures) == 4
    assert all(s.startswith("data:image/png;base64,") for s in sources)
    assert "viewport" in page and "http" not in page.split("<body>")[0]
    assert "<td>KL, T 2*</td>" in page and ".yaml" not in page.split("<h2")[1]
    path.unlink()


def test_rows_of_other_matrices_are_kept(reported, small):
    """And a variable of one matrix is no key of another."""
    folder, _, _ = reported
    before = rows_of(folder), rows_of(folder, "teachers.csv")
    text = MATRIX.replace("title: Tiny", "title: Two\nvariables: {t: '1.0'}")
    text = text.replace("KL, T 2", "KL") + (
        "    config: hparams/distill_teacher_mse_b05.yaml\n"
        "    overrides: {kd_distance: kl, kd_temperature: <t>}\n"
    )
    write_matrix(folder, text, name="another")
    try:
        names = "another", "tiny"
        run_experiments(small, folder, "--only-report", "--t=2.0", names=names)
        both = rows_of(folder), rows_of(folder, "teachers.csv")
        for rows, old in zip(both, before):
            assert [r for r in rows if r["matrix"] == "tiny"] == old
            assert len(rows) == 2 * len(old)
        page = folder / "results" / "tables" / "another.md"
        assert "failed" not in page.read_text(encoding="utf-8")
        files = reported_files(folder)
        run_experiments(small, folder, "--only-report")  # tiny alone
        assert reported_files(folder) == files
    finally:
        records = read_records(folder / "results")
        for name in ("runs", "teachers"):
            rows = getattr(records, name)
            rows[:] = [row for row in rows if row["matrix"] == "tiny"]
        write_records(folder / "results", records)
        (folder / "results" / "tables" / "another.md").unlink()


def test_a_failed_run_is_shown_and_does_not_stop_the_others(small, tmp_path):
    text = MATRIX.split("conditions:")[0] + (
        "conditions: {all: {}}\nsystems:\n"
        "  no KD: {config: hparams/baseline.yaml}\n"
        "  odd: {config: hparams/baseline.yaml,\n"
        "        overrides: {opt_class: {weight_decay: 1.0e+300}}}"
    )
    write_matrix(tmp_path, text)
    printed = run_experiments(small, tmp_path, "--workers", "1", fails=True)
    assert "2 runs failed; the first: " in printed
    assert "Traceback" not in printed
    table = (tmp_path / "results" / "tables" / "tiny.md").read_text("utf-8")
    assert re.search(r"\| \[odd\]\(.*\)\* \| failed \|", table)
    rows = rows_of(tmp_path)
    assert all(row["errors"] for row in rows if row["system"] == "no KD")
    odd = [row for row in rows if row["system"] == "odd"]
    assert [row["test_set"] for row in odd] == ["", ""]
    assert [row["seed"] for row in odd] == ["1", "2"]


def test_two_nodes_of_ray_give_the_same_numbers(reported, small, tmp_path):
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        write_matrix(tmp_path)
        run_experiments(small, tmp_path, "--ray-address", cluster.address)
    finally:
        ray.shutdown()
        cluster.shutdown()
    folder, _, _ = reported
    local = sorted((folder / "results" / "runs").iterdir())
    there = sorted((tmp_path / "results" / "runs").iterdir())
    assert [p.name for p in local] == [p.name for p in there]
    for one, other in zip(local, there):
        assert metrics_of(one) == metrics_of(other)


def test_what_runs_share_is_made_once(small, tmp_path):
    """Two systems, two seeds: one corpus, one encoder, one teacher."""
    recipe = ROOT / "recipes" / "fluent-speech-commands" / "logit_distillation"
    shared = [f"--{key}={value}" for key, value in small.items()]
    code = f"""
import sys
sys.path.insert(0, {str(recipe)!r})
import experiments, train
calls = []
def counted(name, function):
    def call(*arguments, **options):
        calls.append(name)
        return function(*arguments, **options)
    return call
train.module_fingerprint = counted("hash", train.module_fingerprint)
experiments.prepare_fsc = counted("corpus", experiments.prepare_fsc)
from slu_kd_lobes.teachers.tables import TextModel
TextModel.table = counted("table", TextModel.table)
def line(config, seed):
    return ["hparams/" + config, "--seed=" + seed, *{shared!r}]
configs = "baseline.yaml", "distill_teacher_mse_b05.yaml", \\
    "distill_teacher_mae_exp.yaml"
plans = experiments.plan_students(
    [line(config, seed) for config in configs for seed in "12"]
)
names = [experiments.fingerprint([p["settings"], p["sources"]]) for p in plans]
print(sorted(calls), len(set(names)), plans[0]["utterances"])
tables = [sorted(p["sources"]["tables"]) for p in plans]
print(tables)
"""
    script = tmp_path / "counting.py"
    script.write_text(code)
    printed = run_command([sys.executable, str(script)]).splitlines()
    assert "['corpus', 'hash', 'table'] 6 144" in printed  # 48 in 3 epochs
    assert "[[], [], ['teacher'], ['teacher'], ['teacher'], ['teacher']]" in (
        printed
    )


# What is declared


@pytest.mark.parametrize(
    "change, said",
    [
        (("reference: no KD", "reference: none"), "'none' is not a system"),
        (("conditions:", "condition:"), "did you mean 'conditions'"),
        (("seeds: [1, 2]", "seeds: []"), "'seeds' is []: give a list such"),
        (("seeds: [1, 2]", "seeds: 1"), "'seeds' is 1: give a list such as"),
        (("seeds: [1, 2]\n", ""), "'seeds' is missing or empty"),
        (
            ("breakdown:", "tests: utt_test\nbreakdown:"),
            "'tests' is 'utt_test': give",
        ),
        (("breakdown: True", "breakdown: 7"), "'breakdown' is 7: give True"),
        (("half: {", "0.5: {"), "the name 0.5 is no text: put it in quotes"),
        (("KL, T 2:", "2024:"), "the name 2024 is no text: put it in quotes"),
        (("draws: 2", "draws: 0"), "'half': 'draws' is 0: give a whole"),
        (("draws: 2", "draws: two"), "'draws' is 'two': give a whole number"),
        (("draws: 2", "held_out: some"), "'held_out' is 'some': give a share"),
        (("draws: 2", "unspoken: 0.2"), "'unspoken' is 0.2: give a whole"),
        (
            ("draws: 2", "held_out: 0.2, unspoken: 6"),
            "condition 'half' has held_out and unspoken: leave one of them out",
        ),
        (("{split: test, levels", "{levels"), "'whole': noise has no split"),
        (("{whole: 1.25}", "1.25"), "'paper' is 1.25: give keys and values"),
        (("half: {train", "half: [train"), "not valid YAML"),
        (
            ("elsewhere: {csv_folder: no_such_splits}", "other: 3"),
            "'key: value",
        ),
        (("config: hparams/baseline.yaml, ", ""), "'no KD' has no config"),
        (("KL, T 2:", "KL, T 3:"), "no such name; did you mean 'KL, T 2'?"),
        (
            ("KL, T 2:", "KL, T 2: {config: a.yaml}"),
            "has the key 'config', and",
        ),
        (
            ("KL, T 2:", "KL, T 2: {config: a, override: 1}"),
            "did you mean 'overrides",
        ),
        (("paper: {whole", "paper: {hole"), "there is no condition 'hole'"),
        (("levels: [10, 0, room]", "level: [10]"), "did you mean 'levels'"),
        (("title: Tiny", "title: [Tiny"), "not valid YAML"),
    ],
)
def test_what_is_wrong_in_a_matrix_is_said(tmp_path, change, said):
    path = write_matrix(tmp_path, MATRIX.replace(*change))
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        read_matrix(path)
    assert str(path) in str(error.value)


def test_what_is_wrong_in_the_systems_is_said(tmp_path):
    for systems, said in (
        ("a: {overrides: {lr: 1}}", "system 'a' has no config"),
        ("a: {config: a, paper: 1}", "there is no key 'paper'"),
        ("- a", "must consist of 'name: definition'"),
    ):
        path = write_matrix(tmp_path, systems=systems)
        with pytest.raises(ValueError, match=said):
            read_matrix(path)


def test_two_matrices_of_one_name_are_refused(tmp_path):
    """Their rows could not be told apart."""
    (tmp_path / "more").mkdir()
    paths = [write_matrix(tmp_path), write_matrix(tmp_path / "more")]
    with pytest.raises(ValueError, match="two matrices have the name 'tiny'"):
        read_matrices(paths)
    systems = tmp_path / "systems.yaml"
    assert [m.name for m in read_matrices([paths[0], systems])] == ["tiny"]


def test_a_test_set_that_no_run_has_is_refused(tmp_path):
    sets = {"train", "valid", "a_test"}
    matrix = read_matrix(write_matrix(tmp_path))
    matrix.tests = ["valid", "a_test"]
    check_tests(matrix, sets)
    matrix.tests = ["valid", "train"]
    said = "no condition has a set 'train'; there are a_test, valid"
    with pytest.raises(ValueError, match=said):
        check_tests(matrix, sets)


#: The smallest one.
ONE_SYSTEM = (
    MATRIX.split("conditions:")[0]
    + "conditions: {all: {}}\nsystems:\n  no KD: {config: hparams/baseline.yaml}"
)


def test_bad_input_is_one_sentence(small, tmp_path):
    write_matrix(tmp_path, "tests: [valid, nowhere]\n" + ONE_SYSTEM)
    said = "tiny.yaml: tests: no condition has a set 'nowhere'; there are"
    assert said in run_experiments(small, tmp_path, fails=True)
    write_matrix(tmp_path)
    for option, said in (
        (f"--data_folder={tmp_path}", "row 2: there is no audio file"),
        ("--data_folder=nowhere", "error: there is no folder nowhere: unpack"),
        ("--data_folder=", "where is the corpus? Give --data_folder="),
        ("--learning_rate=1", "error: command line: there is no key"),
        ("--workers=0", "error: --workers must be at least 1"),
        ("--ray-address=127.0.0.1:1", f"error: {NO_RAY}"),
        ("--tables", "error: there is no "),
    ):
        printed = run_experiments(small, tmp_path, option, fails=True)
        assert said in printed and "Traceback" not in printed
    text = ONE_SYSTEM.replace("config:", "script: a.py, config:")
    write_matrix(tmp_path, text)
    printed = run_experiments(small, tmp_path, fails=True)
    assert "there is no script 'a.py': choose one of train.py, cas" in printed


def test_draws_seeds_and_variables(tmp_path):
    """2 systems x (1 draw x 2 seeds + 2 draws x 1 seed)."""
    text = MATRIX.replace(
        "whole: {noise: {split: test, levels: [10, 0, room]}}", "whole: {}"
    )
    text = text.replace("title:", "variables: {t: 2.0}\ntitle:")
    systems = SYSTEMS.replace("2.0", "<t>")
    matrix = read_matrix(write_matrix(tmp_path, text, systems))
    runs = runs_of(matrix, "corpus", overrides={"lr": "0.1", "t": "3.0"})
    assert len(runs) == 8
    assert len({str(run) for run in runs}) == 8
    half = [r for r in runs if r.condition == "half" and r.system == "no KD"]
    assert [r.draw for r in half] == [0, 1]
    assert half[1].overrides["train_fraction"] == "0.5"
    assert half[1].overrides["subset_seed"] == "1"
    kl = next(r for r in runs if r.system == "KL, T 2")
    assert kl.overrides["kd_temperature"] == "3.0"
    assert kl.overrides["lr"] == "0.1"
    assert "t" not in kl.overrides
    assert kl.config == "hparams/distill_teacher_mse_b05.yaml"


# The matrices of this project


def test_every_system_has_one_name():
    """And none is defined in a matrix, so that names cannot differ."""
    systems, names = read_systems(MATRICES), {}

    def meaning(facts):
        overrides = {
            key: re.sub("<(.*?)>", r"\1", typed(value))
            for key, value in facts.get("overrides", {}).items()
        }
        text = complete_yaml(RECIPE / facts["config"], overrides)
        return {k: v for k, v in settings(text).items() if k != "config"}

    for name, facts in systems.items():
        parts = [meaning(facts), meaning(facts.get("first", facts))]
        assert names.setdefault(str(parts), name) == name
    used = set()
    for path in MATRICES.glob("*.yaml"):
        if path.name != "systems.yaml":
            used |= read_matrix(path).systems.keys()
    assert used == systems.keys()


def test_no_class_path_stands_in_the_matrices():
    """Every choice has a name in the configuration."""
    for path in MATRICES.glob("*.yaml"):
        assert "!new" not in path.read_text(), path
        assert "!name" not in path.read_text(), path


def test_every_matrix_has_a_row_in_the_readme():
    text = (MATRICES / "README.md").read_text(encoding="utf-8")
    for path in MATRICES.glob("*.yaml"):
        assert f"({path.name})" in text, path


def test_a_value_of_a_matrix_is_the_value_typed(tmp_path):
    """As YAML 1.2 reads it, and as it was written where it is a number."""
    path = tmp_path / "m.yaml"
    path.write_text(
        "title: T\nreference: a\nseeds: [1]\nconditions: {all: {}}\n"
        "systems:\n  a:\n    config: hparams/baseline.yaml\n    overrides:\n"
        "      config: no\n"
        "      encoder_source: 'My enc #2 = x'\n"
        "      text_encoder: 12:30  # a name\n"
        "      train_log: 012\n"
        "      feature_folder: 1_000\n"
        "      teacher_folder: 0x1F\n"
        "      lr: 1e-3\n"
        "      slot_values:\n        action: [on, 'c: d']  # values\n"
    )
    run, *_ = runs_of(read_matrix(path), "My corpus #3: = a")
    expected = {
        "config": "no",
        "encoder_source": "My enc #2 = x",
        "text_encoder": "12:30",
        "train_log": "012",
        "feature_folder": "1_000",
        "teacher_folder": "0x1F",
        "lr": "1e-3",
        "slot_values": "{action: [on, 'c: d']}",
        "data_folder": "My corpus #3: = a",
    }
    assert {key: run.overrides[key] for key in expected} == expected


def test_the_home_folder_is_expanded_for_all_folders(monkeypatch):
    """A shell leaves it alone behind an equals sign."""
    monkeypatch.setenv("HOME", "/home/anna")
    names = ("data_folder", "csv_folder", "results", "report")
    words = [f"--{name}=~/x #1" for name in names]
    options, _ = parse(["a.yaml", *words])
    for name in names:
        assert str(getattr(options, name)) == "/home/anna/x #1"
