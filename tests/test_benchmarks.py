"""The benchmark measures what it says, on a corpus like the one it names."""

import csv
import functools
import hashlib
import json
import sys
from pathlib import Path

import pytest
import soundfile
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import fsc_scale  # noqa: E402
import peer_end_to_end_slu as peer  # noqa: E402
import preparation  # noqa: E402
import results_page  # noqa: E402
import standin  # noqa: E402

SCALE = 0.005
SIZES = {"train": 116, "valid": 16, "test": 19}  # 0.5 % of FSC, rounded


@pytest.fixture(scope="module", autouse=True)
def read_recordings_once():
    """Corpora of this module share the decoded recordings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(standin, "_read", functools.cache(standin._read))
        yield


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A small stand-in."""
    folder = tmp_path_factory.mktemp("standin") / "corpus"
    standin.make_standin(folder, SCALE, seed=7)
    return folder


def rows(corpus, split):
    """The rows of a split's CSV file."""
    path = corpus / "data" / f"{split}_data.csv"
    with open(path, encoding="utf-8", newline="") as f:
        return list(csv.DictReader(f))


def digests(corpus):
    """Hash of every file, by name."""
    return {
        str(path.relative_to(corpus)): hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for path in corpus.rglob("*.*")
        if path.name != standin.MARKER
    }


# The stand-in corpus


def test_full_scale_has_the_size_of_fsc():
    assert standin.utterances(1) == {
        "train": 23132,
        "valid": 3118,
        "test": 3793,
    }


@pytest.mark.parametrize("split", SIZES)
def test_standin_has_fscs_counts_columns_and_durations(corpus, split):
    found = rows(corpus, split)
    assert len(found) == SIZES[split]
    assert list(found[0]) == [
        *("", "path", "speakerId", "transcription"),
        *("action", "object", "location"),
    ]
    assert [row[""] for row in found] == [str(i) for i in range(SIZES[split])]
    seconds = []
    for row in found:
        assert Path(row["path"]).parent == Path(
            "wavs/speakers", row["speakerId"]
        )
        audio = soundfile.info(corpus / row["path"])
        assert (audio.samplerate, audio.channels) == (16000, 1)
        assert (audio.format, audio.subtype) == ("WAV", "PCM_16")
        seconds.append(audio.duration)
    assert sum(seconds) / len(seconds) == pytest.approx(2.3, rel=0.01)


def test_durations_spread_like_those_of_fsc(tmp_path):
    standin.make_standin(tmp_path / "corpus", scale=0.02)
    seconds = torch.tensor(
        [
            soundfile.info(tmp_path / "corpus" / row["path"]).duration
            for row in rows(tmp_path / "corpus", "train")
        ]
    )
    assert 0.6 < seconds.std() < 0.9
    assert seconds.min() > 0.85 and seconds.max() > 4


def test_no_two_files_of_a_standin_are_alike(corpus):
    wavs = [h for name, h in digests(corpus).items() if name.endswith(".wav")]
    assert len(set(wavs)) == len(wavs) == sum(SIZES.values())


def test_a_seed_gives_the_same_bytes(corpus, tmp_path):
    standin.make_standin(tmp_path / "same", SCALE, seed=7)
    standin.make_standin(tmp_path / "other", SCALE, seed=8)
    same, other = digests(tmp_path / "same"), digests(tmp_path / "other")
    assert same == digests(corpus)
    assert not set(same.values()) & set(other.values())


def test_a_finished_standin_is_used_again_and_an_unfinished_one_is_not(
    tmp_path,
):
    folder = tmp_path / "corpus"
    marker = folder / standin.MARKER
    standin.make_standin(folder, 0.001)
    finished = {"version": standin.VERSION, "scale": 0.001, "seed": 0}
    assert json.loads(marker.read_text()) == {**finished, "finished": True}
    kept = folder / "measured"
    kept.touch()
    standin.make_standin(folder, 0.001)
    assert kept.exists()
    marker.write_text(json.dumps({**finished, "finished": False}))
    standin.make_standin(folder, 0.001)
    assert not kept.exists()
    assert json.loads(marker.read_text())["finished"]


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match="choose another --folder"):
        standin.make_standin(tmp_path, SCALE)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("scale", [0, -1, 1e-4, float("nan")])
def test_a_scale_without_utterances_is_refused(tmp_path, scale):
    with pytest.raises(ValueError, match="choose 0.001 or more"):
        standin.make_standin(tmp_path / "corpus", scale)


def test_a_disk_that_is_too_small_is_refused(tmp_path):
    with pytest.raises(OSError, match="free some room"):
        standin.make_standin(tmp_path / "corpus", scale=1e6)


# The reference code

# Of the same shape: the convolution needs what the whole loop has built.
MODELS = """
import torch

class SincLayer:
    calls = 0

    def __init__(self, count):
        self.count = count

    def conv1d(self, x, filters):
        SincLayer.calls += 1
        return x * sum(filters)

    def forward(self, x):
        filters = []
        for number in range(self.count):
            filters.append(number + 1)
            out = self.conv1d(x, filters)
        return out
"""


@pytest.mark.parametrize("fixed, calls", [(False, 4), (True, 1)])
def test_the_fixed_loop_convolves_once_with_the_same_result(fixed, calls):
    source = peer.move_convolution_out_of_loop(MODELS) if fixed else MODELS
    names = {}
    exec(source, names)
    assert names["SincLayer"](4).forward(3) == 3 * (1 + 2 + 3 + 4)
    assert names["SincLayer"].calls == calls


@pytest.mark.parametrize(
    "source",
    [
        peer.move_convolution_out_of_loop(MODELS),
        MODELS.replace("SincLayer", "OtherLayer"),
        MODELS.replace("self.conv1d(x, filters)", "x"),
    ],
)
def test_other_code_is_not_changed_but_refused(source):
    with pytest.raises(ValueError, match="nothing to fix"):
        peer.move_convolution_out_of_loop(source)


def test_a_folder_without_the_reference_is_refused(tmp_path):
    (tmp_path / "data.py").touch()
    with pytest.raises(ValueError, match="has no models.py: give --reference"):
        peer.check_reference(tmp_path)


@pytest.mark.parametrize(
    "size, batches, timed, utterances",
    # A loader of 4 batches of 2, and one of a single batch; 2 warm it up.
    [(8, 1, 1, 2), (7, 9, 2, 3), (2, 9, 1, 2)],
)
def test_batches_after_the_warm_up_are_timed(size, batches, timed, utterances):
    data = torch.utils.data.TensorDataset(torch.arange(size))
    loader = [batch[0] for batch in torch.utils.data.DataLoader(data, 2)]
    watch = peer.TimedLoader([(batch, None) for batch in loader], batches)
    assert len(list(watch)) == min(len(loader), 2 + batches)
    assert (watch.batches, watch.utterances) == (timed, utterances)
    assert watch.seconds > 0


# The steps


@pytest.fixture
def script(tmp_path):
    """A script that counts its runs and fails when told to."""
    path = tmp_path / "script.py"
    path.write_text(
        "import json, os, pathlib, sys\n"
        "out = pathlib.Path(sys.argv[1])\n"
        "count = out.parent.parent / 'count'\n"
        "count.write_text(count.read_text() + '+' if count.exists() else '+')\n"
        "threads = os.environ['OMP_NUM_THREADS']\n"
        "out.write_text(json.dumps({'threads': threads}))\n"
        "if 'fail' in sys.argv: sys.exit('the disk is on fire')\n"
    )
    return str(path)


def test_a_step_is_repeated_only_when_it_has_changed(tmp_path, script):
    out = str(tmp_path / "runs" / "step" / "metrics.json")

    def run(threads, *more):
        steps = fsc_scale.Steps(tmp_path / "runs", threads)
        return steps.run("step", script, out, *more)

    first = run(3)
    assert first["threads"] == "3" and first["wall_seconds"] > 0
    assert run(3) == first
    assert (tmp_path / "runs" / "count").read_text() == "+"
    assert run(2)["threads"] == "2"
    run(2, "more")
    assert (tmp_path / "runs" / "count").read_text() == "+++"


def test_a_step_that_fails_says_where_and_why(tmp_path, script):
    out = str(tmp_path / "runs" / "step" / "metrics.json")
    for _ in range(2):  # and is not taken for finished
        with pytest.raises(ValueError, match="step.log: the disk is on fire"):
            fsc_scale.Steps(tmp_path / "runs", 1).run(
                "step", script, out, "fail"
            )


CALLS = {
    "stored": ["cold", "extraction", "forward", "stored"],
    "peers": [
        "stored_bf16",
        "stored_compiled",
        "on_the_fly",
        "speechbrain_cached",
    ],
    "reference": ["reference_fixed", "reference_published"],
}


@pytest.fixture
def calls(monkeypatch):
    """What `measure` would run, by name; each leaves made-up figures."""
    commands = {}

    def run(self, name, *command):
        commands[name] = command
        names = ("prepare", "teacher", "train_epoch", "valid_epoch")
        return {
            "seconds": {key: name + " " + key for key in names}
            if command[0] == "train.py"
            else name,
            "train_epoch_seconds": name,
            "peak_memory_mb": name,
            "wall_seconds": name,
            **({} if name == "speechbrain_cached" else {"measured_batches": 3}),
        }

    monkeypatch.setattr(fsc_scale.Steps, "run", run)
    monkeypatch.setattr(fsc_scale, "check_reference", lambda folder: None)
    monkeypatch.setattr(fsc_scale.shutil, "which", lambda name: name)
    monkeypatch.setattr(
        fsc_scale.subprocess,
        "run",
        lambda command: fsc_scale.subprocess.CompletedProcess(command, 0),
    )
    monkeypatch.setattr(
        fsc_scale.importlib.util, "find_spec", lambda name: None
    )
    return commands


def test_every_figure_comes_from_its_step(tmp_path, calls):
    found = fsc_scale.measure(tmp_path, 1, 1, 20, reference=tmp_path)
    assert list(calls) == sum(CALLS.values(), [])
    assert found["train_epoch_seconds"] == {
        "stored": "stored train_epoch",
        "stored_bf16": "stored_bf16 train_epoch",
        "stored_compiled": "stored_compiled train_epoch",
        "on_the_fly": "on_the_fly train_epoch",
        "speechbrain_cached": "speechbrain_cached",
        "reference_fixed": "reference_fixed",
        "reference_published": "reference_published",
    }
    assert found["valid_epoch_seconds"] == "stored valid_epoch"
    assert found["prepare_seconds"] == "cold prepare"
    assert found["teacher_seconds"] == "cold teacher"
    assert found["run_seconds"] == found["peak_memory_mb"] == "stored"
    assert found["extraction_seconds"] == "extraction"
    assert found["extraction_forward_seconds"] == "forward"
    assert found["extraction_peak_memory_mb"] == "extraction"
    assert set(found["measured_batches"]) == {
        "extraction_forward",
        *CALLS["reference"],
    }
    assert found["utterances"] == standin.SPLITS


def test_a_run_finds_the_features_that_the_first_one_stored(tmp_path, calls):
    fsc_scale.measure(tmp_path, 1, 1, epochs=7)
    stores = [
        [
            part
            for part in calls[name]
            if "_folder" in part and "out" not in part
        ]
        for name in ("cold", "stored", "on_the_fly")
    ]
    assert stores[0] == stores[1] == stores[2]
    assert f"--feature_folder={tmp_path}/runs/cold/features" in stores[0]
    assert "--number_of_epochs=7" in calls["stored"]
    assert "--features=on_the_fly" in calls["on_the_fly"]
    assert "--features=on_the_fly" not in calls["stored"]


def test_peers_are_left_out_on_request(tmp_path, calls):
    found = fsc_scale.measure(tmp_path, 4, 1, 20, only="stored")
    assert list(calls) == CALLS["stored"]
    assert list(found["train_epoch_seconds"]) == ["stored"]
    calls.clear()
    fsc_scale.measure(tmp_path, 1, 1, 20)
    assert list(calls) == CALLS["stored"] + CALLS["peers"]


# The page


def figures(scale=1, **others):
    """Figures of a made-up run."""
    return {
        "scale": scale,
        "utterances": {"train": 100, "valid": 20, "test": 30},
        "epochs": 20,
        "train_epoch_seconds": {
            "stored": 8.0,
            "on_the_fly": 100.0,
            "speechbrain_cached": 32.0,
            "reference_fixed": 120.0,
        },
        "measured_batches": {"reference_fixed": 40},
        "valid_epoch_seconds": 1.25,
        "run_seconds": 300.0,
        "peak_memory_mb": 1501,
        "prepare_seconds": 2.0,
        "teacher_seconds": 3.0,
        "extraction_seconds": 15.0,
        "extraction_forward_seconds": 10.0,
        "extraction_peak_memory_mb": 700,
        "threads": 2,
        "machine": {"cpu": "a CPU", "cores": 4},
        "versions": {"torch": "2.13.0"},
        "commit": "0123abc",
        "command": "python benchmarks/fsc_scale.py",
        **others,
    }


def test_the_tables_compare_with_stored_features():
    tables = results_page.results_tables(figures())
    assert "## Scale 1: 150 utterances" in tables
    assert "a CPU, 4 cores, threads: 2; torch 2.13.0; commit 0123abc" in tables
    assert "| stored features (this project) | 8.00 | 1.0 |" in tables
    assert "| on the fly (this project) | 100.00 | 12.5 |" in tables
    assert "fixed (40 batches timed) | 120.00 | 15.0 |" in tables
    assert "| whole run, features and teacher ready (s) | 300.0 |" in tables
    assert "as published" not in tables


@pytest.mark.parametrize(
    "goal, scale",
    [
        ("| reference, fixed : stored | ≥ 10 | 15.00 | met |", 1),
        ("| SpeechBrain, cached : stored | ≥ 5 | 4.00 | missed |", 1),
        ("| extraction : bare forward pass | ≤ 1.5 | 1.50 | met |", 4),
        ("| seconds an epoch | ≤ 8 | 8.00 | met |", 1),
        ("| seconds of a run of 20 epochs | ≤ 240 | 300.00 | missed |", 1),
        ("| MB of memory at four times FSC | ≤ 1500 | 1501.00 | missed |", 4),
    ],
)
def test_goals_are_judged_by_the_figures(goal, scale):
    assert goal in results_page.results_tables(figures(scale))


def test_goals_are_judged_only_where_they_apply():
    at_four = results_page.results_tables(figures(4))
    assert "seconds an epoch | ≤" not in at_four and "240" not in at_four
    assert "four times" not in results_page.results_tables(figures(1))
    assert "240" not in results_page.results_tables(figures(1, epochs=3))
    assert "published" not in at_four


def test_what_was_written_by_hand_is_kept(tmp_path):
    page = tmp_path / "RESULTS.md"
    results_page.write_page([figures()], page)
    assert page.read_text().endswith(f"\n{results_page.MARKER}\n")
    with open(page, "a") as f:
        f.write("\nWhy the goal was missed: {braces}.\n")
    results_page.write_page([figures(4), figures(1)], page)
    text = page.read_text()
    tables, by_hand = text.split(results_page.MARKER)
    assert by_hand == "\n\nWhy the goal was missed: {braces}.\n"
    assert tables.index("## Scale 1:") < tables.index("## Scale 4:")


def test_the_plot_takes_one_scale_or_several(tmp_path):
    for saved in ([figures()], [figures(4), figures(1)]):
        results_page.plot_scaling(saved, tmp_path / "scaling.png")
        content = (tmp_path / "scaling.png").read_bytes()
        assert content.startswith(b"\x89PNG")
        assert [p.name for p in tmp_path.iterdir()] == ["scaling.png"]


# The command


def run_main(monkeypatch, folder, *arguments):
    """Runs the command, with the measuring replaced, in a folder."""
    keys = ("threads", "machine", "versions", "commit", "command")
    measured = {k: v for k, v in figures(0.5).items() if k not in keys}
    monkeypatch.setattr(fsc_scale, "measure", lambda *settings: measured)
    monkeypatch.setattr(fsc_scale, "HERE", folder / "benchmarks")
    monkeypatch.setattr(sys, "argv", ["fsc_scale.py", *map(str, arguments)])
    fsc_scale.main()


def test_json_alone_is_written_on_request(tmp_path, monkeypatch):
    out = tmp_path / "out.json"
    run_main(monkeypatch, tmp_path, "--scale=0.5", "--json", out, "--threads=3")
    found = json.loads(out.read_text())
    assert found.keys() == figures().keys()
    assert found["threads"] == 3
    assert found["command"] == (
        f"python fsc_scale.py --scale=0.5 --json {out} --threads=3"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_page_plot_and_figures_are_written_and_named(
    tmp_path, monkeypatch, capsys
):
    run_main(monkeypatch, tmp_path, "--scale=0.5")
    results = tmp_path / "benchmarks" / "results"
    page = tmp_path / "benchmarks" / "RESULTS.md"
    names = sorted(path.name for path in results.iterdir())
    assert names == ["fsc_scale_0.5.json", "scaling.png"]
    assert "## Scale 0.5: 150 utterances" in page.read_text()
    printed = capsys.readouterr().out
    assert str(page) in printed and str(results / "scaling.png") in printed
    assert "| stored features (this project) | 8.00 | 1.0 |" in printed


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--scale=0"], "error: a scale of 0 leaves a split without"),
        (["--threads=0"], "error: --threads and --epochs must be at least 1"),
        (["--reference=no/where"], "error: the folder no/where has no data.py"),
    ],
)
def test_bad_input_ends_in_one_sentence(
    tmp_path, monkeypatch, arguments, sentence
):
    arguments += [f"--json={tmp_path}/out.json", f"--folder={tmp_path}/in"]
    monkeypatch.setattr(sys, "argv", ["fsc_scale.py", *arguments])
    with pytest.raises(SystemExit, match=sentence) as stopped:
        fsc_scale.main()
    assert "\n" not in stopped.value.code
    assert not list(tmp_path.iterdir())


# Preparation


def test_a_corpus_of_links_is_prepared_and_measured(tmp_path):
    preparation.make_corpus(tmp_path, 1200)
    found = preparation.measure(tmp_path)
    assert found["seconds"] > found["again"] > 0
    assert found["mb"] >= found["start_mb"] > 0
    (folder,) = (tmp_path / "manifests").iterdir()
    sizes = {split: len(rows(tmp_path, split)) for split in preparation.SHARES}
    assert sizes == {"train": 924, "valid": 120, "test": 156}
    for split, size in sizes.items():
        text = (folder / f"{split}.csv").read_text(encoding="utf-8")
        assert len(text.splitlines()) == size + 1
