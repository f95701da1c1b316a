"""Tables from tidy files, against values worked out otherwise."""

import csv
import gzip
import math

import numpy as np
import pytest
from scipy import stats

from slu_kd_lobes.evaluation.statistics import (
    bootstrap_difference,
    mcnemar,
    paired_difference,
    risk_coverage,
    wilson_interval,
)
from slu_kd_lobes.experiments import engine
from slu_kd_lobes.experiments.comparisons import compare, shares, summarise
from slu_kd_lobes.experiments.matrix import read_matrix
from slu_kd_lobes.experiments.records import (
    COLUMNS,
    Records,
    Result,
    Score,
    merged,
    read_records,
    write_records,
)
from slu_kd_lobes.experiments.tables import make_tables

MATRIX = """
title: By hand
reference: a
seeds: [1]
tests: [test]
conditions: {all: {}}
systems:
  a: {config: hparams/baseline.yaml, paper: {all: 1.5}}
  b: {config: hparams/distill_teacher_mae_exp.yaml}
"""
RUNS = """\
matrix,system,condition,draw,seed,run,commit,n_train,train_seconds,test_set,\
epoch,n,errors,nll,ece,slot_errors
hand,a,all,0,1,run-a,5f5f5f,1200,1800.0,valid,last,8,0,0.1,0.1,action=0
hand,a,all,0,1,run-a,5f5f5f,1200,1800.0,valid,best,8,0,,,
hand,a,all,0,1,run-a,5f5f5f,1200,1800.0,test,last,8,2,0.5,0.125,action=2
hand,a,all,0,1,run-a,5f5f5f,1200,1800.0,test,best,8,4,,,
hand,b,all,0,1,run-b,5f5f5f+,1200,1800.0,valid,last,8,0,0.1,0.1,action=0
hand,b,all,0,1,run-b,5f5f5f+,1200,1800.0,valid,best,8,0,,,
hand,b,all,0,1,run-b,5f5f5f+,1200,1800.0,test,last,8,1,0.25,0.0625,action=1
hand,b,all,0,1,run-b,5f5f5f+,1200,1800.0,test,best,8,1,,,
"""
ITEMS = """\
run,test_set,set,wrong
run-a,test,abc,11000000
run-a,valid,abc,00000000
run-b,test,abc,10000000
run-b,valid,abc,00000000
"""
UTTERANCES = "set,number,speaker,wording,seconds\n" + "".join(
    f"abc,{i},{speaker},{wording},{seconds}\n"
    for i, (speaker, wording, seconds) in enumerate(
        zip("xxxxyyyy", [7, 9] * 4, [1.0, 1.5, 2.0, 2.5] * 2)
    )
)
TEACHERS = """\
matrix,condition,draw,teacher,train_errors,test_errors,\
unexplained_by_intent,unexplained_by_two_numbers
hand,all,0,teacher,0.0,2.5,1.0,10.0
hand,all,1,teacher,0.0,2.5,2.0,10.0
hand,all,0,sentence,,,40.0,
"""


def write_files(folder, **texts):
    """A results folder; a text may take the place of that of a file."""
    (folder / "hand.yaml").write_text(MATRIX, encoding="utf-8")
    results = folder / "results"
    results.mkdir()
    (results / "versions.json").write_text('{"5f5f5f": [{"torch": "2.0"}]}')
    for name, text in (
        ("runs.csv", RUNS),
        ("items.csv.gz", ITEMS),
        ("utterances.csv.gz", UTTERANCES),
        ("teachers.csv", TEACHERS),
    ):
        content = texts.get(name.split(".")[0], text).encode()
        if name.endswith(".gz"):
            content = gzip.compress(content)
        (results / name).write_bytes(content)
    return results


def cells_of(text, system):
    """Cells of a system's first row, by column."""
    lines = text.splitlines()
    row = next(i for i, s in enumerate(lines) if s.startswith(f"| [{system}]"))
    top = max(i for i in range(row) if lines[i].startswith("| system"))
    split = [line.strip("|").split("|") for line in (lines[top], lines[row])]
    return dict(zip(*([cell.strip() for cell in cells] for cells in split)))


def table_of(folder, results):
    matrix = read_matrix(folder / "hand.yaml")
    (text,) = make_tables([matrix], results).values()
    return text


# Tables


def test_values_of_a_table_by_hand(tmp_path):
    """2 and 1 of 8 wrong, on utterances of two speakers and two wordings."""
    text = table_of(tmp_path, write_files(tmp_path))
    a, b = cells_of(text, "a"), cells_of(text, "b")
    assert (a["error %"], b["error %"]) == ("25.00", "12.50")
    assert (a["best epoch"], b["best epoch"]) == ("50.00", "12.50")
    assert (a["runs"], a["NLL"], a["ECE"]) == ("1", "0.5", "0.125")
    assert (a["paper"], b["paper"]) == ("1.5", "")
    p, n, z = 1 / 8, 8, stats.norm.ppf(0.975)  # Wilson
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / 4 / n**2)
    low, high = 100 * (centre - half), 100 * (centre + half)
    assert b["errors"] == f"1.0 ({low:.2f}–{high:.2f} %)"
    assert b["difference"] == "-12.50"  # one pair has no interval
    # Only one utterance differs: of speaker x, in wording 9. A quarter of the
    # draws has it twice, a quarter not at all.
    assert b["over speakers"] == b["over wordings"] == "[-25.00, +0.00]"
    assert b["McNemar"] == "1.000"
    assert a["difference"] == a["McNemar"] == ""
    assert "1,200 training utterances; 8 utterances in `test`" in text
    assert "## all: `valid`" not in text
    made = "Made with 2 runs, 1.0 hours of training in all, of commit "
    assert f"{made}5f5f5f, 5f5f5f+; torch 2.0." in text
    said = "| 2 | 0.00 | 2.50 | 10.00 | 1.50 (1.00–2.00) |"
    assert f"| all | teacher {said}" in text
    assert "| all | sentence | 1 |  |  |  | 40.00 |" in text


@pytest.mark.parametrize(
    "group, other", [(",y,", "speakers"), (",9,", "wordings")]
)
def test_one_speaker_or_wording_says_nothing_of_others(tmp_path, group, other):
    """So there is no interval over them, and the table shows that."""
    one = UTTERANCES.replace(group, {",y,": ",x,", ",9,": ",7,"}[group])
    text = table_of(tmp_path, write_files(tmp_path, utterances=one))
    shown = {
        n: cells_of(text, "b")[f"over {n}"] for n in ("speakers", "wordings")
    }
    assert shown.pop(other) == "–"
    assert list(shown.values()) == ["[-25.00, +0.00]"]
    assert "nan" not in text


def test_only_matrices_with_runs_have_a_page(tmp_path):
    """One that was never run here says nothing, and asked alone, so."""
    results = write_files(tmp_path)
    (tmp_path / "other.yaml").write_text(MATRIX.replace("By hand", "Other"))
    hand, other = (
        read_matrix(tmp_path / f"{name}.yaml") for name in ("hand", "other")
    )
    assert [p.stem for p in make_tables([other, hand], results)] == ["hand"]
    with pytest.raises(ValueError, match="holds no run of other: train some"):
        make_tables([other], results)
    words = [str(tmp_path / f"{n}.yaml") for n in ("hand", "other")]
    words += ["--tables", "--html", "--report", str(tmp_path)]
    engine.main(words, {}, tmp_path)
    page = (results / "report.html").read_text(encoding="utf-8")
    assert "By hand" in page and "Other" not in page
    assert not (results / "tables" / "other.md").exists()


def test_breakdown_by_hand(tmp_path):
    results = write_files(tmp_path)
    path = tmp_path / "hand.yaml"
    path.write_text(MATRIX + "breakdown: True\n")
    lines = table_of(tmp_path, results).splitlines()
    assert "| x | 4 | 50.00 | 25.00 |" in lines
    assert "| y | 4 | 0.00 | 0.00 |" in lines
    assert "| 1.0-1.4 s | 2 | 50.00 | 50.00 |" in lines  # utterances 0 and 4
    assert "| 1.4-1.8 s | 2 | 50.00 | 0.00 |" in lines
    assert "| a | 25.00 |" in lines and "| b | 12.50 |" in lines  # the slot


def test_a_run_that_left_nothing_is_counted(tmp_path):
    """One of two, and both."""
    failed = "hand,b,all,0,2,run-c,,,,,,,,,,\n"
    text = table_of(tmp_path, write_files(tmp_path, runs=RUNS + failed))
    assert cells_of(text, "b")["runs"] == "1 (1 failed)"
    (tmp_path / "all").mkdir()
    runs = "".join(
        line for line in RUNS.splitlines(True) if not line.startswith("hand,b")
    )
    results = write_files(tmp_path / "all", runs=runs + failed)
    text = table_of(tmp_path / "all", results)
    assert cells_of(text, "b")["error %"] == "failed"


def test_the_reference_leads_and_no_other_stands_for_it(tmp_path):
    """Though it is declared last, and another's name begins with its name."""
    runs = RUNS.replace("hand,a,", "hand,KL,")
    runs = runs.replace("hand,b,", 'hand,"KL 0.5 | T, 2",')
    results = write_files(tmp_path, runs=runs)
    text = MATRIX.split("systems:")[0].replace("ence: a", "ence: KL")
    (tmp_path / "hand.yaml").write_text(
        text + "systems:\n  KL 0.5 | T, 2: {config: hparams/baseline.yaml}\n"
        "  KL: {config: hparams/baseline.yaml}\n"
    )
    lines = table_of(tmp_path, results).splitlines()
    first, second = (line for line in lines if line.startswith("| [KL"))
    assert first.startswith("| [KL](") and "-12.50" not in first
    assert second.startswith(r"| [KL 0.5 \| T, 2](") and "-12.50" in second
    assert second.count("|") == first.count("|") + 1  # the one in the name


def test_test_sets_that_are_not_there_are_said(tmp_path):
    """None of a matrix is one sentence; none of a condition is in the page."""
    results = write_files(tmp_path)
    path = tmp_path / "hand.yaml"
    path.write_text(MATRIX.replace("tests: [test]", "tests: [valid, tset]"))
    with pytest.raises(ValueError, match="hand.yaml: tests: no .* 'tset'; the"):
        table_of(tmp_path, results)
    text = MATRIX.replace("{all: {}}", "{all: {}, more: {}, never: {}}")
    path.write_text(text.replace("tests: [test]", "tests: [far_test]"))
    more = RUNS.replace(",test,", ",far_test,").replace(",all,", ",more,")
    more = more.replace("run-", "far-").splitlines(True)[1:]
    items = ITEMS.replace(",test,", ",far_test,").replace("run-", "far-")
    (tmp_path / "two").mkdir()
    results = write_files(
        tmp_path / "two",
        runs=RUNS + "".join(more),
        items=ITEMS + "".join(items.splitlines(True)[1:]),
    )
    page = table_of(tmp_path, results)
    assert "## more: `far_test`" in page
    assert "## all\n\nThe corpus has no set far_test.\n" in page
    assert "## never\n\nThe corpus lacks it.\n" in page


@pytest.fixture
def drawn(tmp_path):
    """Five draws of two systems with errors at random, as tidy files."""
    rng = np.random.default_rng(3)
    speakers = rng.integers(0, 12, 200)
    wordings = rng.integers(0, 40, 200)
    hard = rng.random(200)
    records = Records(versions={"5f": [{}]})
    records.utterances["abc"] = [
        {
            "set": "abc",
            "number": i,
            "speaker": f"s{speakers[i]}",
            "wording": wordings[i],
            "seconds": 1.0,
        }
        for i in range(200)
    ]
    for system, level in (("a", 0.1), ("b", 0.14)):
        for draw in range(5):
            wrong = rng.random(200) < level + 0.2 * hard
            name = f"{system}-{draw}"
            records.items[name, "test"] = "abc", wrong
            for epoch in ("last", "best"):
                values = ["hand", system, "all", draw, 1, name, "5f", 99, 1.0]
                values += ["test", epoch, 200, wrong.sum()]
                values += [0.5, 0.1, ""] if epoch == "last" else ["", "", ""]
                row = dict(zip(COLUMNS["runs.csv"], values))
                records.runs.append(row)
    (tmp_path / "hand.yaml").write_text(MATRIX, encoding="utf-8")
    write_records(tmp_path / "results", records)
    return tmp_path, records


def test_intervals_can_be_recomputed_from_the_items(drawn):
    """With csv, gzip and SciPy alone."""
    folder, _ = drawn
    with gzip.open(folder / "results" / "items.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))
    wrong = {row["run"]: np.array(list(row["wrong"]), int) for row in rows}
    a, b = (np.array([wrong[f"{s}-{d}"] for d in range(5)]) for s in "ab")
    test = stats.ttest_rel(100 * b.mean(1), 100 * a.mean(1))
    low, high = test.confidence_interval(0.95)
    difference = 100 * (b.mean() - a.mean())
    p = [
        stats.binomtest(int((x > y).sum()), int((x != y).sum())).pvalue
        for x, y in zip(b, a)
    ]
    cells = cells_of(table_of(folder, folder / "results"), "b")
    assert cells["difference"] == f"{difference:+.2f} [{low:+.2f}, {high:+.2f}]"
    assert cells["p"] == cells["p, adjusted"] == f"{test.pvalue:.3f}"
    assert cells["McNemar"] == f"{np.median(p):.3f}"
    # Over speakers: whole speakers are drawn, with all that they say.
    path = folder / "results" / "utterances.csv.gz"
    with gzip.open(path, "rt") as file:
        speakers = np.array([row["speaker"] for row in csv.DictReader(file)])
    of_speaker = speakers == np.unique(speakers)[:, None]
    more = of_speaker @ (b - a).sum(0)
    items = 5 * of_speaker.sum(1)
    chosen = np.random.default_rng(0).integers(0, len(more), (9999, len(more)))
    rates = 100 * more[chosen].sum(1) / items[chosen].sum(1)
    interval = np.percentile(rates, [2.5, 97.5])
    given = [float(x) for x in cells["over speakers"].strip("[]").split(",")]
    assert given == pytest.approx(interval, abs=0.3)


# Tidy files


def test_tidy_files_are_the_same_when_read_and_written(drawn, tmp_path):
    """Whenever, and whoever does it."""
    folder, _ = drawn
    records = read_records(folder / "results")
    for path in write_records(tmp_path / "again", records):
        first = folder / "results" / path.name
        assert path.read_bytes() == first.read_bytes(), path.name
        if path.suffix == ".gz":  # no date and no name in the header
            assert path.read_bytes()[3:8] == bytes(5)


def test_other_matrices_stay_and_what_nobody_needs_goes(drawn):
    """Here the runs of system a are those of another matrix."""
    _, records = drawn
    old = Records(
        runs=[
            {**row, "matrix": "other" if row["system"] == "a" else "hand"}
            for row in records.runs
        ],
        items=dict(records.items),
        utterances={**records.utterances, "old": []},
        versions={"5f": [{"torch": "1"}], "e0": [{}]},
    )
    new = Records(runs=[{**records.runs[0], "run": "c-0", "matrix": "hand"}])
    new.items["c-0", "test"] = records.items["a-0", "test"]
    new.versions["5f"] = [{"torch": "2"}]
    both = merged(old, new, ["hand"])
    assert [row["matrix"] for row in both.runs] == ["hand"] + 10 * ["other"]
    runs = sorted(run for run, _ in both.items)
    assert runs == [*(f"a-{draw}" for draw in range(5)), "c-0"]
    assert list(both.utterances) == ["abc"]
    assert both.versions == {"5f": [{"torch": "1"}, {"torch": "2"}]}


@pytest.mark.parametrize(
    "name, change, said",
    [
        (
            "items",
            ("11000000", "10000000"),
            "2 errors on test in runs.csv and 1",
        ),
        ("items", ("11000000", "110000000"), "2 errors on test in runs.csv"),
        ("items", ("run-a,test", "run-a,tset"), "KeyError: .*run-a.*test"),
        ("items", ("set,wrong", "set"), "items.csv.gz has the columns"),
        ("runs", (",test,last,8,2", ",test,last,8,two"), "of the same runs"),
        (
            "runs",
            ("test,best,8,4,,,", "test,best,8"),
            "a row of runs.csv has too many cells",
        ),
        ("utterances", ("abc,7,y,9,2.5\n", ""), "2 errors|0 errors"),
    ],
)
def test_files_that_are_damaged_or_of_others_are_refused(
    tmp_path, name, change, said
):
    texts = {"items": ITEMS, "runs": RUNS, "utterances": UTTERANCES}
    assert change[0] in texts[name]
    results = write_files(tmp_path, **{name: texts[name].replace(*change)})
    matrix = read_matrix(tmp_path / "hand.yaml")
    with pytest.raises(ValueError, match=said) as error:
        make_tables([matrix], results)
    assert "restore it, or delete" in str(error.value)


def test_files_that_are_cut_or_gone_are_refused(tmp_path):
    """Whichever it is."""
    results = write_files(tmp_path)
    matrix = read_matrix(tmp_path / "hand.yaml")
    for path in sorted(results.iterdir()):
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(
            FileNotFoundError, match=f"there is no .*{path.name}"
        ):
            make_tables([matrix], results)
        if path.suffix in (".gz", ".json"):
            path.write_bytes(content[: len(content) // 2])
            with pytest.raises(ValueError, match="damaged") as error:
                make_tables([matrix], results)
            assert "\n" not in str(error.value)
        path.write_bytes(content)
    assert list(make_tables([matrix], results)) == [
        results / "tables" / "hand.md"
    ]


# Comparisons


def results_of(records, name, runs):
    """Results of runs on test sets of their own, whose items are given."""
    results = []
    for draw, (wrong, speakers) in enumerate(runs):
        items, run = f"set {draw}", f"{name}-{draw}"
        records.items[run, "test"] = items, np.array(wrong, bool)
        records.utterances[items] = [
            {"speaker": speaker, "wording": i % 2, "seconds": 1}
            for i, speaker in enumerate(speakers)
        ]
        score = Score(len(wrong), sum(wrong), 0, 0.5, 0.1)
        results.append(Result(run, draw, 1, "", 9, 1.0, {"test": score}))
    return results


def test_draws_with_test_sets_of_their_own():
    """By hand: 2 of 4 and 3 of 8 wrong, against 1 of 4 and 1 of 8."""
    records, voices = Records(), ("aaaa", "aaaabbbb")
    own = results_of(
        records,
        "own",
        [([1, 1, 0, 0], voices[0]), ([1, 1, 0, 0, 1, 0, 0, 0], voices[1])],
    )
    reference = results_of(
        records,
        "reference",
        [([1, 0, 0, 0], voices[0]), ([1, 0, 0, 0, 0, 0, 0, 0], voices[1])],
    )
    found = summarise(own, "test")
    assert found["mean"] == pytest.approx((50 + 37.5) / 2)
    assert (found["items"], found["wrong"]) == (6, 2.5)
    test = compare(records, own, reference, "test")
    assert test["difference"] == pytest.approx((25 + 25) / 2)
    # 2 of 8 utterances of one speaker differ, 1 of 4 of the other; 1 of 6 of
    # one wording, 2 of 6 of the other.
    assert test["speakers"] == pytest.approx((25, 25))
    assert test["wordings"] == pytest.approx((100 / 6, 200 / 6))
    by_speaker = shares(records, own, "test", lambda items: items["speaker"])
    assert by_speaker == {"a": (50.0, 4), "b": (25.0, 2)}
    assert summarise(own, "other_test") is None
    assert compare(records, own, reference[2:], "test") is None


# Statistics


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
    assert bootstrap_difference(first, first, ["a"] * 400) is None


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


def test_risk_at_full_coverage_is_the_error_rate():
    confidence = np.array([0.1, 0.9, 0.8, 0.7])
    wrong = np.array([True, False, False, True])
    coverage, risk, area = risk_coverage(confidence, wrong)
    assert coverage[-1] == 1.0 and risk[-1] == 0.5
    assert area == pytest.approx((0 + 0 + 1 / 3 + 0.5) / 4)
