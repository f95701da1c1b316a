#!/usr/bin/env python3
"""Times the training of lorenlugosch/end-to-end-SLU, the reference code.

None of it is in this repository: clone it and name the folder. Its model,
data loading and training loop run as they are, with a frozen encoder
(its experiments/no_unfreezing.cfg), on a temporary copy. What no longer works
is replaced at run time:

* torchaudio's SoxEffectsChain, which is gone, by a reader of the same audio;
* the package textgrid, which only its pre-training needs, by nothing;
* its pre-trained weights, which a clone may lack, by random ones.

Its SincNet layer applies the convolution within the loop that builds the
filters, once for each of the 80 filters, and keeps the last result. `fixed`
moves it behind the loop, which gives the same result; `published` leaves it.

> python benchmarks/peer_end_to_end_slu.py fixed --reference DIR \
>     --corpus CORPUS --json out.json
"""

import argparse
import ast
import configparser
import csv
import importlib.util
import itertools
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
from speechbrain.dataio import audio_io

from slu_kd_lobes.training.run_folder import one_sentence_errors
from slu_kd_lobes.utils.environment import peak_memory_mb
from slu_kd_lobes.utils.files import write_json

MODULES = ("data.py", "models.py", "training.py")
EXPERIMENT = "experiments/no_unfreezing"
WARM_UP = 2
# A published batch takes tens of seconds.
BATCHES = {"fixed": 40, "published": 12}


def check_reference(folder):
    """Raises an error that names what the reference code lacks.

    Arguments
    ---------
    folder : str or Path
        A clone of it.

    Raises
    ------
    ValueError
        If it cannot be run.
    """
    phonemes = f"{EXPERIMENT}/pretraining/phonemes.txt"
    for name in (*MODULES, f"{EXPERIMENT}.cfg", phonemes):
        if not (Path(folder) / name).is_file():
            raise ValueError(
                f"the folder {folder} has no {name}: give --reference a clone "
                "of https://github.com/lorenlugosch/end-to-end-SLU"
            )
    if importlib.util.find_spec("pandas") is None:
        raise ValueError(
            "the reference code needs pandas: run 'pip install pandas'"
        )


def move_convolution_out_of_loop(source):
    """Source code with the filter loop of the SincNet layer fixed.

    Arguments
    ---------
    source : str
        The reference's models.py.

    Returns
    -------
    str
        The same, but that the last statement of the loop, the convolution,
        follows the loop.

    Raises
    ------
    ValueError
        If there is no such loop.
    """
    tree = ast.parse(source)
    for layer in tree.body:
        if not (isinstance(layer, ast.ClassDef) and layer.name == "SincLayer"):
            continue
        for function in layer.body:
            statements = getattr(function, "body", [])
            for place, loop in enumerate(statements):
                if isinstance(loop, ast.For) and len(loop.body) > 1:
                    if "conv1d(" in ast.unparse(loop.body[-1]):
                        statements.insert(place + 1, loop.body.pop())
                        return ast.unparse(tree)
    raise ValueError(
        "the reference's models.py has no SincLayer with a loop that ends in "
        "conv1d, so there is nothing to fix: measure it as published"
    )


class SoxEffectsChain:
    """Reads a file as the class of this name did that torchaudio removed."""

    def set_input_file(self, path):
        """Names the file."""
        self.path = path

    def sox_build_flow_effects(self):
        """Returns the waveform, [channels, samples], and the rate in Hz."""
        return audio_io.load(self.path)


class TimedLoader:
    """Batches of a loader, of which those after the first few are timed.

    Arguments
    ---------
    loader : torch.utils.data.DataLoader
    batches : int
        How many to time, if there are as many.
    """

    def __init__(self, loader, batches):
        self.loader = loader
        self.warm_up = min(WARM_UP, len(loader) - 1)
        self.batches = min(batches, len(loader) - self.warm_up)
        self.utterances = 0
        self.seconds = None

    def __iter__(self):
        wanted = itertools.islice(self.loader, self.warm_up + self.batches)
        for number, batch in enumerate(wanted):
            if number == self.warm_up:
                start = time.perf_counter()
            if number >= self.warm_up:
                self.utterances += len(batch[0])
            yield batch
        self.seconds = time.perf_counter() - start


def copy_reference(reference, corpus, variant, folder):
    """Makes a folder in which the reference code can run.

    Arguments
    ---------
    reference : Path
        A clone of it.
    corpus : Path
        In the layout of FSC.
    variant : str
        ``fixed`` or ``published``.
    folder : Path
        Gets its modules, its configuration and the corpus under `corpus`.
    """
    for name in MODULES:
        source = (reference / name).read_text(encoding="utf-8")
        if variant == "fixed" and name == "models.py":
            source = move_convolution_out_of_loop(source)
        (folder / name).write_text(source, encoding="utf-8")
    shutil.copytree(corpus / "data", folder / "corpus" / "data")
    (folder / "corpus" / "wavs").symlink_to(corpus / "wavs")
    # It wants a file of synthetic utterances beside the real ones.
    data = folder / "corpus" / "data"
    with open(data / "train_data.csv", encoding="utf-8", newline="") as f:
        columns = next(csv.reader(f))
    (data / "synthetic_data.csv").write_text(",".join(columns) + "\n")
    config = configparser.ConfigParser()
    config.optionxform = str
    config.read(reference / f"{EXPERIMENT}.cfg")
    config["experiment"]["folder"] = "experiment"
    config["training"]["slu_path"] = "corpus"
    with open(folder / "experiment.cfg", "w") as f:
        config.write(f)


def load_reference(reference, corpus, variant, folder):
    """Imports the reference code and reads a corpus with it.

    Arguments
    ---------
    reference : Path
        A clone of it.
    corpus : Path
        In the layout of FSC.
    variant : str
        ``fixed`` or ``published``.
    folder : Path
        Empty; it becomes the current one.

    Returns
    -------
    models : module
    training : module
    config : object
        Its configuration.
    dataset : object
        Its training set.
    """
    reference, corpus = reference.resolve(), corpus.resolve()
    copy_reference(reference, corpus, variant, folder)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    sys.modules.setdefault("textgrid", ModuleType("textgrid"))
    data, models, training = (
        importlib.import_module(Path(name).stem) for name in MODULES
    )
    data.torchaudio = SimpleNamespace(
        sox_effects=SimpleNamespace(SoxEffectsChain=SoxEffectsChain)
    )
    config = data.read_config("experiment.cfg")
    torch.manual_seed(config.seed)
    pretraining = Path("experiment/pretraining")
    phonemes = reference / EXPERIMENT / "pretraining" / "phonemes.txt"
    shutil.copy(phonemes, pretraining)
    dataset, _, _ = data.get_SLU_datasets(config)
    weights = models.PretrainedModel(config).state_dict()
    torch.save(weights, pretraining / "model_state.pth")
    return models, training, config, dataset


def time_reference(reference, corpus, variant, batches):
    """Times training batches of the reference code.

    Arguments
    ---------
    reference : Path
    corpus : Path
    variant : str
        ``fixed`` or ``published``.
    batches : int
        How many to time.

    Returns
    -------
    dict
        Their time scaled up to the epoch, and how many there were.
    """
    with tempfile.TemporaryDirectory() as folder:
        models, training, config, dataset = load_reference(
            reference, corpus, variant, Path(folder)
        )
        trainer = training.Trainer(models.Model(config), config)
        dataset.loader = loader = TimedLoader(dataset.loader, batches)
        trainer.train(dataset)
    return {
        "train_epoch_seconds": loader.seconds
        * len(dataset)
        / loader.utterances,
        "measured_batches": loader.batches,
        "peak_memory_mb": peak_memory_mb(),
    }


def main():
    """Times one variant."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("variant", choices=BATCHES)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--batches", type=int)
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    batches = arguments.batches or BATCHES[arguments.variant]
    out = arguments.json.resolve()  # before the folder changes
    with one_sentence_errors():
        check_reference(arguments.reference)
        figures = time_reference(
            arguments.reference, arguments.corpus, arguments.variant, batches
        )
        write_json(out, figures)


if __name__ == "__main__":
    main()
