"""Trains what is missing, on the cores of this machine or on Ray.

A run is finished when its `metrics.json` is there, and its folder is named
after all that it is made from, so nothing is trained twice.
"""

import contextlib
import functools
import importlib
import json
import multiprocessing
import os
import socket
import sys
import threading
import traceback
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import torch
from filelock import FileLock
from tqdm import tqdm

from slu_kd_lobes import __version__
from slu_kd_lobes.features import sha256
from slu_kd_lobes.files import write_json
from slu_kd_lobes.hub import reason_of

#: Start and tests of a run, in utterances that could be trained on meanwhile.
START_UP = 3000


@functools.cache
def load_script(path):
    """A recipe's script as a module.

    Arguments
    ---------
    path : str
        The file; what stands beside it can be imported by it.

    Returns
    -------
    module
    """
    path = Path(path).resolve()
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    return importlib.import_module(path.stem)


def identity_of(made_from):
    """The name of a run that is made from this, and of no other.

    Arguments
    ---------
    made_from : dict
        Settings and hashes of data.

    Returns
    -------
    str

    Example
    -------
    >>> len(identity_of({"settings": {"lr": "lr: 0.1"}}))
    16
    """
    facts = {**made_from, "version": __version__}
    return sha256(json.dumps(facts, sort_keys=True).encode())[:16]


def is_finished(folder):
    """Whether a run has left its metrics."""
    return (Path(folder) / "metrics.json").is_file()


def execute(script, arguments, folder, threads=1):
    """Trains one run, or what is left of it, in this process.

    Arguments
    ---------
    script : str
        The recipe's script.
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
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(threads)
    # Another command may be training the same run: wait, then look.
    with FileLock(folder / ".lock"), open(folder / "output.txt", "a") as out:
        if is_finished(folder):
            return None
        try:
            with (
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(out),
            ):
                load_script(script).main(list(arguments))
        except (Exception, SystemExit) as error:
            traceback.print_exc(file=out)
            lines = str(error).strip().splitlines() or [type(error).__name__]
            return lines[0].removeprefix("error: ")
    return None


def _die_with_parent():
    """A worker whose command was killed stops at once."""

    def watch():
        multiprocessing.parent_process().join()
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
            "Ray is not installed: pip install 'slu-kd-lobes[ray]'"
        ) from error
    host, _, port = address.split("://")[-1].rpartition(":")
    try:
        if port.isdigit():  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), 3.0).close()
        ray.init(
            address=address,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}},
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


def identify_all(runs, recipe, results):
    """Makes ready what runs share, and finds the folder of each.

    Arguments
    ---------
    runs : list of Run
    recipe : Path
        Folder of the scripts and of identify.py, which knows them.
    results : Path
        Where runs go, and what they share.

    Returns
    -------
    list of dict
        Of each run ``folder``, ``manifests``, ``script``, ``arguments`` and
        ``cost``, about proportional to its time.

    Raises
    ------
    ValueError
        If identify.py does not know a script.
    """
    scripts = load_script(recipe / "identify.py").SCRIPTS
    found = [None] * len(runs)
    for script in dict.fromkeys(run.script for run in runs):
        if script not in scripts:
            raise ValueError(
                f"there is no script '{script}': choose one of "
                f"{', '.join(scripts)}"
            )
        identify, shared = scripts[script]
        own = [i for i, run in enumerate(runs) if run.script == script]
        for i in own:
            config, *keys = runs[i].arguments
            places = {key: results / name for key, name in shared.items()}
            manifests = results / "manifests" / runs[i].manifests
            places["manifest_folder"] = manifests
            keys += [f"--{key}={place}" for key, place in places.items()]
            found[i] = {
                "script": str(recipe / script),
                "manifests": manifests,
                "arguments": [str(recipe / config), *keys],
            }
        facts = identify([found[i]["arguments"] for i in own])
        for i, made_from in zip(own, facts):
            cost = START_UP + made_from.pop("utterances")
            name = Path(runs[i].arguments[0]).stem
            folder = results / "runs" / f"{name}-{identity_of(made_from)}"
            if not (folder / "made_from.json").is_file():
                write_json(folder / "made_from.json", made_from)
            found[i]["arguments"].append(f"--output_folder={folder}")
            found[i] |= {"folder": folder, "cost": cost}
    return found


def execute_all(jobs, pool):
    """Trains every job that is not finished.

    Arguments
    ---------
    jobs : list of dict
        As `identify_all` gives them; several may be one run.
    pool : context manager
        Gives a function that takes work.

    Returns
    -------
    dict
        What went wrong, by folder.
    """
    waiting = {
        job["folder"]: job for job in jobs if not is_finished(job["folder"])
    }
    failed = {}
    if not waiting:
        return failed
    total = sum(job["cost"] for job in waiting.values())
    bar = tqdm(total=total, unit_scale=True, ncols=79)
    with bar, pool as submit:
        # The longest first: none is left alone at the end.
        order = sorted(waiting.values(), key=lambda job: -job["cost"])
        futures = {
            submit(
                execute, job["script"], job["arguments"], str(job["folder"])
            ): job
            for job in order
        }
        for done, future in enumerate(as_completed(futures), 1):
            job = futures[future]
            try:
                fault = future.result()
            except Exception as error:  # the worker itself died
                fault = f"its process ended ({type(error).__name__})"
            if fault:
                failed[job["folder"]] = fault
                tqdm.write(f"{job['folder']}: {fault}")
            bar.set_description(f"{done} of {len(futures)} runs")
            bar.update(job["cost"])
    return failed
