"""A short run of benchmarks/reliability.py: no fault is allowed."""

import json
import subprocess
import sys

from running import ROOT, environment


def test_kills_and_damage_change_no_result(tmp_path):
    """A few of each; the benchmark counts hundreds."""
    out = tmp_path / "counts.json"
    command = ["benchmarks/reliability.py", "--kills=1", "--damage=4"]
    command += ["--kinds", "audio", "csv", "checkpoint", "package"]
    result = subprocess.run(
        [sys.executable, *command, "--seed=11", f"--out={out}"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(out.read_text())
    assert report["kills"]["kills"] == 1 and not report["kills"]["faults"]
    assert sum(report["damage"]["counts"].values()) == 4
    assert not report["damage"]["details"]
