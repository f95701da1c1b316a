"""A matrix of runs: what is declared, trained once, tested and reported."""

import csv
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from running import CORPUS, ROOT, environment, metrics_of, run
from scipy import stats
from speechbrain.dataio import audio_io

from slu_kd_lobes.experiments.matrix import (
    Run,
    check_tests,
    read_matrix,
    runs_of,
)
from slu_kd_lobes.experiments.noise import (
    condition_name,
    corrupt,
    noisy_corpus,
    room_response,
)
from slu_kd_lobes.experiments.outcomes import (
    Outcome,
    compare,
    shares,
    summarise,
)
from slu_kd_lobes.experiments.statistics import (
    bootstrap_difference,
    mcnemar,
    paired_difference,
    risk_coverage,
    wilson_interval,
)

NO_RAY = (
    "no Ray cluster answers at"
    if importlib.util.find_spec("ray")
    else "Ray is not installed"
)
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
    config: hparams/distill_teacher_mse_b05.yaml
    overrides:
      kd_distance: "!new:slu_kd_lobes.losses.KLDistance {temperature: 2.0}"
"""


def write_matrix(folder, text=MATRIX):
    path = folder / "tiny.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def experiments(small, folder, *more):
    """The command line of the tiny matrix."""
    options = {k: v for k, v in small.items() if k.endswith("overrides")}
    options |= {"number_of_epochs": 3, "batch_size": 16}
    return [
        *(sys.executable, "-m", "slu_kd_lobes.experiments"),
        str(folder / "tiny.yaml"),
        f"--data_folder={CORPUS}",
        f"--csv_folder={small['csv_folder']}",
        *("--results", str(folder / "results"), "--report", str(folder)),
        *(f"--{key}={value}" for key, value in options.items()),
        *more,
    ]


def run_experiments(small, folder, *more, fails=False):
    done = subprocess.run(
        experiments(small, folder, *more),
        cwd=ROOT,
        env=environment(),
        text=True,
        capture_output=True,
    )
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


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


def test_the_same_matrix_again_trains_nothing(reported, small):
    folder, _, _ = reported
    before = {
        path: path.stat().st_mtime_ns
        for path in folder.glob("results/runs/*/metrics.json")
    }
    printed = run_experiments(small, folder)
    assert "runs:" not in printed  # no progress bar
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_a_run_is_what_train_gives(reported, small, tmp_path):
    """Killed or not, in a pool or alone: the numbers of train.py."""
    folder, _, _ = reported
    rows = list(csv.DictReader(open(folder / "results" / "runs.csv")))
    row = next(r for r in rows if r["condition"] == "half")
    # A fraction needs no noise, so the corpus is the one of `small`.
    options = {
        **{k: v for k, v in small.items() if k != "number_of_epochs"},
        "number_of_epochs": 3,
        "train_fraction": 0.5,
        "subset_seed": row["subset_seed"],
        "seed": row["seed"],
        "output_folder": tmp_path / "run",
        "config": "no_KD",
    }
    run("baseline", options)
    made = folder / "results" / "runs" / row["run"]
    assert metrics_of(tmp_path / "run") == metrics_of(made)
    alone = (tmp_path / "run" / "predictions_test.csv").read_text()
    assert alone == (made / "predictions_test.csv").read_text()


def test_report_says_what_the_runs_left(reported):
    folder, _, _ = reported
    text = (folder / "RESULTS.md").read_text(encoding="utf-8")
    rows = list(csv.DictReader(open(folder / "results" / "runs.csv")))
    assert len(rows) == 8
    for name in (
        "system config condition train_fraction subset_seed seed commit "
        "test_error_last_epoch test_error_best_epoch nll ece"
    ).split():
        assert all(row[name] != "" for row in rows), name
    own = [
        float(row["test_error_last_epoch"])
        for row in rows
        if row["system"] == "KL, T 2" and row["condition"] == "whole"
    ]
    line = next(
        line
        for line in text.split("### whole: `test`")[1].splitlines()
        if line.startswith("| [KL, T 2]")
    )
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1] == f"{np.mean(own):.2f} ± {np.std(own, ddof=1):.2f}"
    assert cells[2] == "2"
    for split in ("room_test", "noise_10_test", "noise_0_test", "utt_test"):
        assert f"### whole: `{split}`" in text
    assert "1.25" in text  # the paper's
    assert "### elsewhere\n\nThe corpus lacks it." in text
    assert "by speaker" in text and "by length" in text
    knows = text.split("### What the teachers say beyond the labels")[1]
    assert "| whole | teacher | 1 |" in knows  # two seeds share one
    assert "| half | teacher | 2 |" in knows  # of two draws


def test_report_in_html_needs_no_other_file(reported):
    folder, _, _ = reported
    page = (folder / "results" / "report.html").read_text(encoding="utf-8")
    sources = re.findall('src="([^"]*)"', page)
    assert len(sources) == len(list(folder.glob("results/figures/*.png")))
    assert all(s.startswith("data:image/png;base64,") for s in sources)
    assert "viewport" in page and "http" not in page.split("<body>")[0]


def test_what_is_written_by_hand_stays(reported, small):
    folder, _, _ = reported
    path = folder / "RESULTS.md"
    path.write_text(
        path.read_text(encoding="utf-8")
        + "\n<!-- written by hand below -->\nWhy it is so.\n",
        encoding="utf-8",
    )
    run_experiments(small, folder, "--only-report")
    assert path.read_text(encoding="utf-8").endswith("\nWhy it is so.\n")


def test_a_variable_of_one_matrix_is_no_key_of_another(reported, small):
    folder, _, _ = reported
    text = MATRIX.replace("title: Tiny", "title: Two\nvariables: {t: '1.0'}")
    second = folder / "second.yaml"
    second.write_text(text.replace("temperature: 2.0", "temperature: <t>"))
    command = experiments(small, folder, "--only-report", "--t=2.0")
    command.insert(command.index(str(folder / "tiny.yaml")), str(second))
    subprocess.run(command, check=True, cwd=ROOT, env=environment())
    text = (folder / "RESULTS.md").read_text(encoding="utf-8")
    two, tiny = text.split("## Two")[1].split("## Tiny")
    assert "failed" not in two + tiny


def test_a_failed_run_is_shown_and_does_not_stop_the_others(small, tmp_path):
    text = MATRIX.split("conditions:")[0] + (
        "conditions: {all: {}}\nsystems:\n"
        "  no KD: {config: hparams/baseline.yaml}\n"
        "  odd: {config: hparams/baseline.yaml,\n"
        "        overrides: {opt_class: '!name:torch.optim.SGD {lr: 1.0e+38}'}}"
    )
    write_matrix(tmp_path, text)
    printed = run_experiments(small, tmp_path, "--workers", "1", fails=True)
    assert "2 runs failed; the first: the loss is" in printed
    assert "Traceback" not in printed
    text = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    link = re.findall(r"\[odd\]\((.*)\)\* \| failed", text)[0]
    assert (tmp_path / link).samefile(ROOT / "hparams" / "baseline.yaml")
    rows = list(csv.DictReader(open(tmp_path / "results" / "runs.csv")))
    assert [r["state"] for r in rows if r["system"] == "no KD"] == [
        "finished",
        "finished",
    ]


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


@pytest.mark.parametrize(
    "change, said",
    [
        (("reference: no KD", "reference: none"), "'none' is not a system"),
        (("conditions:", "condition:"), "did you mean 'conditions'"),
        (("seeds: [1, 2]", "seeds: []"), "'seeds' is missing or empty"),
        (("config: hparams/baseline.yaml, ", ""), "'no KD' has no config"),
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


def test_a_test_set_that_no_run_has_is_refused(tmp_path):
    for split in ("train", "valid", "noise_test"):
        (tmp_path / f"{split}.csv").touch()
    matrix = read_matrix(write_matrix(tmp_path))
    matrix.tests = ["valid", "noise_test"]
    check_tests(matrix, [tmp_path])
    matrix.tests = ["valid", "train"]
    said = "no condition has a set 'train'; there are noise_test, valid"
    with pytest.raises(ValueError, match=said):
        check_tests(matrix, [tmp_path])


def test_bad_input_is_one_sentence(small, tmp_path):
    write_matrix(tmp_path, "tests: [valid, nowhere]\n" + MATRIX)
    said = "tiny.yaml: tests: no condition has a set 'nowhere'; there are"
    assert said in run_experiments(small, tmp_path, fails=True)
    write_matrix(tmp_path)
    for option, said in (
        ("--data_folder=nowhere", "row 2: there is no audio file"),
        ("--learning_rate=1", "error: command line: there is no key"),
        ("--workers=0", "error: --workers must be at least 1"),
        ("--ray-address=127.0.0.1:1", f"error: {NO_RAY}"),
    ):
        printed = run_experiments(small, tmp_path, option, fails=True)
        assert said in printed and "Traceback" not in printed


def test_draws_seeds_and_variables(tmp_path):
    """2 systems x (1 draw x 2 seeds + 2 draws x 1 seed)."""
    text = MATRIX.replace(
        "whole: {noise: {split: test, levels: [10, 0, room]}}", "whole: {}"
    )
    text = text.replace("title:", "variables: {t: '2.0'}\ntitle:")
    text = text.replace("temperature: 2.0", "temperature: <t>")
    matrix = read_matrix(write_matrix(tmp_path, text))
    runs = runs_of(matrix, "corpus", overrides={"lr": "0.1", "t": "3.0"})
    assert len(runs) == 8
    assert len({run.arguments for run in runs}) == 8
    half = [r for r in runs if r.condition == "half" and r.system == "no KD"]
    assert [r.draw for r in half] == [0, 1]
    assert "--train_fraction=0.5" in half[1].arguments
    assert "--subset_seed=1" in half[1].arguments
    assert half[0].manifests != half[1].manifests
    kl = next(r for r in runs if r.system == "KL, T 2")
    assert any("temperature: 3.0" in a for a in kl.arguments)
    assert "--lr=0.1" in kl.arguments
    no_kd = next(r for r in runs if r.system == "no KD")
    assert no_kd.manifests == kl.manifests


# Noise


@pytest.mark.parametrize("level", [20, 0, -5])
def test_noise_has_the_level_that_it_says(level):
    torch.manual_seed(0)
    wav = 0.05 * torch.randn(160000)
    noisy = corrupt(wav, level, "a")
    # What is left when the speech is taken out is the noise.
    gain = float(wav @ noisy / (wav @ wav))
    noise = noisy - gain * wav
    ratio = (gain * wav).square().mean() / noise.square().mean()
    assert 10 * torch.log10(ratio).item() == pytest.approx(level, abs=0.1)


def test_noise_of_an_utterance_is_its_own_and_always_the_same():
    wav = torch.sin(torch.arange(1600.0))
    torch.manual_seed(1)
    first = corrupt(wav, 10, "a")
    torch.manual_seed(2)
    assert torch.equal(first, corrupt(wav, 10, "a"))
    assert not torch.equal(first, corrupt(wav, 10, "b"))
    assert not torch.equal(first, corrupt(wav, 5, "a"))


def test_room_decays_by_60_db_in_its_time():
    """Schroeder's backward integration, from -5 to -35 dB."""
    response = room_response(seconds=0.5)[1:]
    energy = response.square().flip(0).cumsum(0).flip(0)
    decibel = 10 * torch.log10(energy / energy[0])
    fast = int((decibel > -5).sum())
    slow = int((decibel > -35).sum())
    assert 2 * (slow - fast) / 16000 == pytest.approx(0.5, rel=0.05)


def test_noisy_corpus_leaves_the_other_audio_as_it_is(tmp_path):
    corpus = tmp_path / "corpus"
    (corpus / "data").mkdir(parents=True)
    (corpus / "wavs").mkdir()
    for split in ("train", "test"):
        wav = 0.1 * torch.randn(1, 1600)
        audio_io.save(str(corpus / "wavs" / f"{split}.wav"), wav, 16000)
        (corpus / "data" / f"{split}_data.csv").write_text(
            ",path,speakerId,transcription,action\n"
            f"0,wavs/{split}.wav,{split} voice,Lights on,activate\n"
        )
    made = noisy_corpus(corpus, None, [0, "room"], "test", tmp_path / "noisy")
    again = noisy_corpus(corpus, None, [0, "room"], "test", tmp_path / "noisy")
    assert made == again
    tables = sorted(os.listdir(made[1]))
    assert tables == [
        "noise_0_test_data.csv",
        "room_test_data.csv",
        "test_data.csv",
        "train_data.csv",
    ]
    path = os.path.join(made[0], "wavs", "train.wav")
    assert os.path.samefile(path, corpus / "wavs" / "train.wav")
    (row,) = csv.DictReader(open(os.path.join(made[1], tables[0])))
    assert row["path"] == "noise_0_test/wavs/test.flac"
    assert row["speakerId"] == "test voice"
    noisy, _ = audio_io.load(os.path.join(made[0], row["path"]))
    assert noisy.shape == (1, 1600)
    with pytest.raises(ValueError, match="noise 'loud' is unknown"):
        noisy_corpus(corpus, None, ["loud"], "test", tmp_path / "noisy")
    assert not list((tmp_path / "noisy").glob("*.part"))


def test_names_of_conditions_can_be_test_sets():
    assert condition_name(-5) == "noise_minus_5_test"


# Statistics, against values worked out otherwise


def test_wilson_interval_against_its_formula():
    """Wilson 1927: centre and half width for 3 errors of 40."""
    p, n, z = 3 / 40, 40, stats.norm.ppf(0.975)
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    expected = [100 * (centre - half), 100 * (centre + half)]
    assert wilson_interval(3, 40) == pytest.approx(expected)


def test_mcnemar_counts_only_items_on_which_they_differ():
    """5 against 1 of 6: p = 2 (C(6,5) + C(6,6)) / 2^6 = 14 / 64."""
    first = np.array([1] * 5 + [0] + [1] * 10 + [0] * 10, dtype=bool)
    second = np.array([0] * 5 + [1] + [1] * 10 + [0] * 10, dtype=bool)
    assert mcnemar(first, second) == pytest.approx(14 / 64)
    assert mcnemar(second, first) == pytest.approx(14 / 64)
    assert mcnemar(first, first) == 1.0


def test_bootstrap_draws_speakers_not_utterances():
    """One speaker of four differs, on all of many utterances: not certain."""
    first = np.array([1.0] * 100 + [0.0] * 300)
    speakers = np.repeat(["a", "b", "c", "d"], 100)
    low, high = bootstrap_difference(first, np.zeros(400), speakers)
    assert low == 0.0 and 50 <= high <= 100
    by_item = bootstrap_difference(first, np.zeros(400), np.arange(400))
    assert 19 < by_item[0] < 25 < by_item[1] < 31
    assert np.isnan(bootstrap_difference(first, first, ["a"] * 400)).all()


def test_paired_difference_by_hand():
    """Differences 1, 2, 3: mean 2, s.d. 1, t = 2 sqrt(3) with 2 degrees."""
    result = paired_difference([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    t = 2 * np.sqrt(3)
    assert result["difference"] == pytest.approx(2.0)
    assert result["p"] == pytest.approx(2 * stats.t.sf(t, 2))
    half = stats.t.ppf(0.975, 2) / np.sqrt(3)
    assert result["low"] == pytest.approx(2 - half)
    one = paired_difference([1.0], [3.0])
    assert one["difference"] == -2.0 and np.isnan(one["p"])
    same = paired_difference([1.0, 1.0], [1.0, 1.0])
    assert same["p"] == 1.0


def outcome_of(draw, wrong, speakers):
    """An outcome whose items are given."""
    run = Run("a system", "a condition", draw, 1, "train.py", (), "")
    block = {"n": len(wrong), "nll": 0.5, "ece": 0.1}
    block["intent_error"] = 100 * sum(wrong) / len(wrong)
    errors = {epoch: {"test": 0.0} for epoch in ("last", "best")}
    metrics = {"main_test": "test", "test": block}
    metrics["intent_error_by_epoch"] = errors
    items = {
        "wrong": np.array(wrong, bool),
        "speaker": speakers,
        "wording": ["x", "y"] * (len(wrong) // 2),
    }
    return Outcome(run, None, None, metrics, {"test": items})


def test_draws_with_test_sets_of_their_own():
    """By hand: 2 of 4 and 3 of 8 wrong, against 1 of 4 and 1 of 8."""
    voices = ["a"] * 4, ["a"] * 4 + ["b"] * 4
    own = [
        outcome_of(0, [1, 1, 0, 0], voices[0]),
        outcome_of(1, [1, 1, 0, 0, 1, 0, 0, 0], voices[1]),
    ]
    reference = [
        outcome_of(0, [1, 0, 0, 0], voices[0]),
        outcome_of(1, [1, 0, 0, 0, 0, 0, 0, 0], voices[1]),
    ]
    found = summarise(own, "test")
    assert found["mean"] == pytest.approx((50 + 37.5) / 2)
    assert (found["items"], found["wrong"]) == (6, 2.5)
    test = compare(own, reference, "test")
    assert test["difference"] == pytest.approx((25 + 25) / 2)
    # 2 of 8 utterances of one speaker differ, 1 of 4 of the other; 1 of 6 of
    # one wording, 2 of 6 of the other.
    assert test["speakers"] == pytest.approx((25, 25))
    assert test["wordings"] == pytest.approx((100 / 6, 200 / 6))
    by_speaker = shares(own, "test", lambda items: items["speaker"])
    assert by_speaker == {"a": (50.0, 4), "b": (25.0, 2)}


def test_risk_at_full_coverage_is_the_error_rate():
    confidence = np.array([0.1, 0.9, 0.8, 0.7])
    wrong = np.array([True, False, False, True])
    coverage, risk, area = risk_coverage(confidence, wrong)
    assert coverage[-1] == 1.0 and risk[-1] == 0.5
    assert area == pytest.approx((0 + 0 + 1 / 3 + 0.5) / 4)
