"""Trains what is missing, on the cores of this machine or on Ray.

A run is finished when its `metrics.json` is there, and its folder is named
after all that it is made from, so nothing is trained twice.
"""

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from tqdm import tqdm

from slu_kd_lobes import __version__
from slu_kd_lobes.data.manifests import Manifests
from slu_kd_lobes.utils.distribution import extra_command
from slu_kd_lobes.utils.files import write_json
from slu_kd_lobes.utils.fingerprints import fingerprint
from slu_kd_lobes.utils.hub import reason_of

#: What a finished run has left.
METRICS = "metrics.json"

#: Start and tests of a run, in utterances that could be trained on meanwhile.
START_UP = 3000

#: Seconds that a worker has to stop what it started.
GRACE = 5


@dataclass(frozen=True)
class Script:
    """A script of a recipe, and what is asked of it before its runs start.

    Arguments
    ---------
    main : callable
        Takes a command line, as a list of str, and makes one run. Processes
        import it by its name: a function of a module, or a `partial` of one.
    plan : callable
        Takes the command lines of runs and makes ready what several share.
        Gives a dict for each: ``settings`` and ``sources``, all that shapes
        its numbers; ``tests``, the fingerprints of what it is tested on;
        ``utterances`` that it trains on in all epochs; its ``manifests``.
    shared : dict
        Names of the folders that its runs share, by key of its configuration.
    """

    main: Callable
    plan: Callable
    shared: dict


@dataclass(frozen=True)
class Job:
    """A run that can start.

    Arguments
    ---------
    main : callable
        Of the script.
    arguments : list of str
        Its command line.
    folder : Path
        Of the run.
    manifests : slu_kd_lobes.data.manifests.Manifests
    cost : int
        About proportional to the time that it takes.
    """

    main: Callable
    arguments: list
    folder: Path
    manifests: Manifests
    cost: int


def run_plans(runs, scripts, folder, results):
    """Makes ready what runs share, and finds the folder of each.

    Arguments
    ---------
    runs : list of Run
    scripts : dict
        `Script` by name; the first is that of runs that name none.
    folder : str or Path
        Of the recipe; configurations are relative to it.
    results : str or Path
        Where runs go, and what they share.

    Returns
    -------
    list of Job
        In the order of the runs; several may be one.

    Raises
    ------
    ValueError
        If there is no such script, or a configuration is wrong.
    """
    folder, results = Path(folder), Path(results)
    jobs = [None] * len(runs)
    names = [run.script or next(iter(scripts)) for run in runs]
    for name in dict.fromkeys(names):
        if name not in scripts:
            raise ValueError(
                f"there is no script '{name}': choose one of "
                f"{', '.join(scripts)}"
            )
        script = scripts[name]
        shared = {key: results / part for key, part in script.shared.items()}
        numbers = [i for i, other in enumerate(names) if other == name]
        command_lines = []
        for i in numbers:
            keys = {**shared, **runs[i].overrides}
            typed = [f"--{key}={value}" for key, value in keys.items()]
            command_lines.append([str(folder / runs[i].config), *typed])
        plans = script.plan(command_lines)
        for i, arguments, plan in zip(numbers, command_lines, plans):
            config = Path(runs[i].config).stem
            made_from = {k: plan[k] for k in ("settings", "sources", "tests")}
            made_from["version"] = __version__
            key = fingerprint(made_from)[:16]
            output_folder = results / "runs" / f"{config}-{key}"
            if not (output_folder / "made_from.json").is_file():
                write_json(output_folder / "made_from.json", made_from)
            jobs[i] = Job(
                script.main,
                [*arguments, f"--output_folder={output_folder}"],
                output_folder,
                plan["manifests"],
                START_UP + plan["utterances"],
            )
    return jobs


def execute(main, arguments, folder, threads=1):
    """Trains one run, or what is left of it, in this process.

    Arguments
    ---------
    main : callable
        Of the script.
    arguments : list of str
        Its command line.
    folder : str or Path
        Of the run; what is printed goes to ``output.txt`` there.
    threads : int
        Of torch.

    Returns
    -------
    str or None
        What went wrong, in a sentence.
    """
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        os._exit(1)  # a pool goes on with what it was handed
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(threads)
    # Another command may be training the same run: wait, then look.
    with FileLock(folder / ".lock"), open(folder / "output.txt", "a") as out:
        if (folder / METRICS).is_file():
            return None
        try:
            with (
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(out),
            ):
                main(list(arguments))
        except (Exception, SystemExit) as error:
            traceback.print_exc(file=out)
            lines = str(error).strip().splitlines() or [type(error).__name__]
            return lines[0].removeprefix("error: ")
    return None


def _die_with_parent():
    """A worker whose command was killed stops, with what it has started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))

    def watch():
        multiprocessing.parent_process().join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def local_pool(workers):
    """Processes of this machine.

    Arguments
    ---------
    workers : int

    Yields
    ------
    callable
        Takes a function and its arguments, gives a future.
    """
    # Read by OpenMP when a worker imports torch.
    os.environ["OMP_NUM_THREADS"] = "1"
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_die_with_parent,
    )
    try:
        yield pool.submit
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def ray_pool(address):
    """Cores of a Ray cluster; its nodes must share the folders.

    Arguments
    ---------
    address : str
        Of the cluster, ``auto`` for the one of this machine.

    Yields
    ------
    callable
        Takes a function and its arguments, gives a future.

    Raises
    ------
    ValueError
        If Ray is not installed or cannot be reached.
    """
    try:
        import ray
    except ImportError as error:
        raise ValueError(
            f"Ray is not installed: {extra_command('ray')}"
        ) from error
    # A worker imports the scripts of the recipe by name.
    path = os.pathsep.join(part or os.getcwd() for part in sys.path)
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    host, _, port = address.split("://")[-1].rpartition(":")
    try:
        if port.isdigit():  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), 3.0).close()
        ray.init(
            address=address,
            runtime_env={"env_vars": environment},
            log_to_driver=False,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"no Ray cluster answers at {address} ({reason_of(error)}): start "
            "one with 'ray start --head', or leave --ray-address out"
        ) from error

    def submit(function, *arguments):
        remote = ray.remote(num_cpus=1, max_retries=3)(function)
        return remote.remote(*arguments).future()

    try:
        yield submit
    finally:
        ray.shutdown()


def execute_all(jobs, pool):
    """Trains every job that is not finished.

    Arguments
    ---------
    jobs : list of Job
    pool : context manager
        Gives a function that takes work.

    Returns
    -------
    dict
        What went wrong, by folder.
    """
    waiting = {
        job.folder: job for job in jobs if not (job.folder / METRICS).is_file()
    }
    failed = {}
    if not waiting:
        return failed
    total = sum(job.cost for job in waiting.values())
    bar = tqdm(total=total, unit_scale=True, ncols=79)
    with bar, pool as submit:
        # The longest first: none is left alone at the end.
        order = sorted(waiting.values(), key=lambda job: -job.cost)
        futures = {
            submit(execute, job.main, job.arguments, str(job.folder)): job
            for job in order
        }
        for done, future in enumerate(as_completed(futures), 1):
            job = futures[future]
            try:
                fault = future.result()
            except Exception as error:  # the worker itself died
                fault = f"its process ended ({type(error).__name__})"
            if fault:
                failed[job.folder] = fault
                tqdm.write(f"{job.folder}: {fault}")
            bar.set_description(f"{done} of {len(futures)} runs")
            bar.update(job.cost)
    return failed
