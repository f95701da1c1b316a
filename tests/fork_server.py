"""Runs scripts as ``python script.py ...`` does, without the wait for imports.

Most of the time of a short run goes into importing torch and SpeechBrain. This
process imports them once. For each line of JSON on its standard input it forks
one that runs a script, and it answers with the exit status of that.
"""

import gc
import json
import os
import runpy
import sys
from pathlib import Path

import slu_kd_lobes.experiments.engine
import slu_kd_lobes.inference.package
import slu_kd_lobes.inference.recognisers
import slu_kd_lobes.teachers.tables  # noqa: F401


def next_request():
    """What the forked process, in which alone this returns, shall run."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            return json.loads(line)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    sys.exit()


if __name__ == "__main__":
    gc.freeze()  # what was imported stays shared
    request = next_request()
    os.chdir(request["cwd"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    output = os.open(request["output"], os.O_WRONLY)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = request["arguments"]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
