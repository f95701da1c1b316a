"""A short run of benchmarks/reliability.py: no fault is allowed."""

import json
import sys

from running import run_command


def test_kills_and_damage_change_no_result(tmp_path):
    """A few of each; the benchmark counts hundreds."""
    out = tmp_path / "counts.json"
    words = ["benchmarks/reliability.py", "--kills=1", "--damage=4"]
    words += ["--kinds", "audio", "csv", "checkpoint", "package"]
    run_command([sys.executable, *words, "--seed=11", f"--out={out}"])
    report = json.loads(out.read_text())
    assert report["kills"]["kills"] == 1 and not report["kills"]["faults"]
    assert sum(report["damage"]["counts"].values()) == 4
    assert not report["damage"]["details"]
