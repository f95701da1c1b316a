"""Commands that were typed and never spoken: the nearest wording answers."""

import statistics
import time
from pathlib import Path

import torch
from tqdm import tqdm

from slu_kd_lobes.data.audio import read_waveform
from slu_kd_lobes.data.batching import UtteranceDataset
from slu_kd_lobes.evaluation.report import Tested, write_results
from slu_kd_lobes.inference.recognisers import logits_of_nearest
from slu_kd_lobes.training.hparams import load_hparams
from slu_kd_lobes.training.run_folder import CONFIGURATION, METRICS

#: Utterances of the main test set that are answered one at a time.
TIMED = 50


def finished_run(key, folder):
    """Keys of a run that has ended, with the checkpoints of its folder.

    Arguments
    ---------
    key : str
        Names the folder, for the message.
    folder : str or Path

    Returns
    -------
    dict

    Raises
    ------
    FileNotFoundError
        If it has not ended there.
    """
    folder = Path(folder)
    if not (folder / METRICS).is_file():
        raise FileNotFoundError(
            f"{key}: there is no {folder / METRICS}: give the folder of a run "
            "of train.py that has ended"
        )
    places = {"save_folder": str(folder / "save")}
    return load_hparams(folder / CONFIGURATION, places)[0]


def score_nearest_wordings(
    hparams, manifests, wordings, distances_of, made_from, cost
):
    """Tests each split of a corpus: the nearest wording answers.

    Arguments
    ---------
    hparams, manifests, made_from, cost
        See `score_answers`.
    wordings : dict
        Targets of each typed wording, in the order of the distances.
    distances_of : callable
        Gives the distances of rows of a manifest to the wordings,
        [utterances, wordings].
    """
    targets = torch.tensor(list(wordings.values()))
    slices = manifests.schema.slices

    def logits_of(rows):
        distances = distances_of(rows)
        similarities = distances.amax(1, keepdim=True) - distances
        return logits_of_nearest(similarities, targets, slices)

    facts = made_from, cost
    score_answers(hparams, manifests, len(wordings), logits_of, *facts)


def score_answers(hparams, manifests, wordings, logits_of, made_from, cost):
    """Tests each split of a corpus, and writes results as training does.

    Arguments
    ---------
    hparams : dict
        See `slu_kd_lobes.evaluation.report.write_results`.
    manifests : slu_kd_lobes.data.manifests.Manifests
    wordings : int
        How many are typed.
    logits_of : callable
        Gives the logits of rows of a manifest, [utterances, values].
    made_from : dict
        Fingerprints of what gives the answers.
    cost : callable
        Gives what an answer costs, by name, for rows to be answered.
    """
    schema, results = manifests.schema, {}
    for name in ["valid", *manifests.tests]:
        rows = manifests.read(name)
        results[name] = Tested.of(rows, logits_of(rows).numpy(), schema)
    write_results(
        hparams,
        manifests,
        {"last": results, "best": results},  # nothing is trained
        tested_epoch="best",
        wordings=wordings,
        made_from=made_from,
        seconds={"train": 0.0},
        cost=cost(manifests.read(manifests.main_test)[:TIMED]),
    )


@torch.no_grad()
def distances_of_rows(rows, wordings, features, device, batch_size, measure):
    """How far utterances are from wordings (or others), a batch at a time.

    Arguments
    ---------
    rows : list of dict
        See `slu_kd_lobes.data.features.Stored.build`.
    wordings : int
        How many there are.
    features : slu_kd_lobes.data.features.Stored or OnTheFly
    device : str
    batch_size : int
    measure : callable
        Takes features and their lengths, gives distances, [batch, wordings].

    Returns
    -------
    torch.Tensor
        [utterances, wordings].
    """
    features.build(rows)
    data = UtteranceDataset(range(len(rows)), features.load(rows))
    batches = data.loader_options(batch_size)["batch_sampler"]
    distances = torch.zeros(len(rows), wordings)
    for indices in tqdm(batches, "typed commands", unit="batch"):
        batch = data.__getitems__(indices).to(device)
        found = measure(*features(batch.inputs, batch.lengths))
        distances[indices] = found.cpu()
    return distances


@torch.no_grad()
def milliseconds(answer, rows, sample_rate):
    """Median time from a waveform to its answer, on one thread.

    Arguments
    ---------
    answer : callable
        Takes a waveform, [1, samples].
    rows : list of dict
        With ``wav``, a path.
    sample_rate : int
        In Hz.

    Returns
    -------
    float
        In ms.
    """
    threads, seconds = torch.get_num_threads(), []
    torch.set_num_threads(1)
    for row in rows:
        wav = read_waveform(row["wav"], sample_rate).unsqueeze(0)
        start = time.perf_counter()
        answer(wav)
        seconds.append(time.perf_counter() - start)
    torch.set_num_threads(threads)
    return round(1000 * statistics.median(seconds), 2)
