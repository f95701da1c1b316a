"""What a run is made from, for matrices of many runs.

`python -m slu_kd_lobes.experiments` asks this of every run before any starts:
data, features and teachers that several share are made ready here, once.

Authors
 * slu_kd_lobes authors
"""

import json
import tempfile
from collections import defaultdict
from pathlib import Path

import yaml
from tqdm import tqdm

import cascade
from slu_kd_lobes.features import sha256
from slu_kd_lobes.hparams import load_hparams, plain_values, resolve_yaml
from slu_kd_lobes.teachers import text_encoder_fingerprint
from train import load_data, parse_arguments, sources, table_names
from train_many import OWN_KEYS

# Names and places, which shape no number; hashes tell what lies there.
PLACES = (
    "config output_folder save_folder train_log tensorboard_folder "
    "manifest_folder data_folder csv_folder encoder_source feature_folder "
    "teacher_folder text_encoder transcript_folder recogniser num_workers "
    "skip_prep"
).split()


def identify_students(runs):
    """Makes ready what runs share, and tells what each is made from.

    Arguments
    ---------
    runs : list of list of str
        Command lines.

    Returns
    -------
    list of dict
        Of each run its settings and the hashes of its data, and under
        ``utterances`` how many it trains on in all epochs.
    """
    parsed, groups = [], defaultdict(list)
    for i, run in enumerate(tqdm(runs, "reading configurations", ncols=79)):
        hparams_file, run_opts, overrides = parse_arguments(list(run))
        values = plain_values(resolve_yaml(hparams_file, overrides))
        parsed.append((hparams_file, run_opts, overrides, values))
        shared = {k: v for k, v in values.items() if k not in OWN_KEYS}
        groups[json.dumps(shared)].append(i)
    found = [None] * len(runs)
    for members in tqdm(groups.values(), "preparing data", ncols=79):
        hparams_file, run_opts, overrides, _ = parsed[members[0]]
        with tempfile.TemporaryDirectory() as folder:  # of no run
            place = f"\noutput_folder: {folder}"
            hparams, _ = load_hparams(hparams_file, overrides + place)
        plain = {i: _plain(parsed[i][3]) for i in members}
        names = {i: table_names(keys) for i, keys in plain.items()}
        tables = dict.fromkeys(sum(names.values(), []))
        data = load_data(hparams, tables, run_opts)
        tests = _tests(data.manifests)
        # The encoder is hashed once, however many runs share it.
        made_from = sources(data, [])
        for i in members:
            epochs = plain[i]["number_of_epochs"]
            taught = [data.tables[name].made_from for name in names[i]]
            found[i] = {
                "settings": _settings(parsed[i][3]),
                "sources": {**made_from, "teacher": taught},
                "tests": tests,
                "utterances": epochs * len(data.datasets["train"]),
            }
    return found


def _plain(values):
    """Tables and epochs of a configuration."""
    keys = ("teachers", "number_of_epochs")
    plain = yaml.safe_load("\n".join(values[key] for key in keys))
    # An object, which need not be made to know that it is there.
    is_null = values["matching"] in ("matching:", "matching: null")
    return {**plain, "matching": None if is_null else values["matching"]}


def _settings(values):
    return {key: v for key, v in values.items() if key not in PLACES}


def _tests(manifests):
    """Hashes of what a run is chosen and tested on."""
    files = [manifests["valid"], manifests["slots"]]
    files += manifests["tests"].values()
    return [sha256(Path(file).read_bytes()) for file in files]


def identify_cascades(runs):
    """The same of cascades; see `identify_students`."""
    found = []
    for run in tqdm(runs, "preparing cascades", ncols=79):
        hparams, text = cascade.load(list(run))
        manifests, transcripts = cascade.prepare(hparams)
        texts = json.dumps(transcripts)
        found.append(
            {
                "settings": _settings(plain_values(text)),
                "sources": {
                    "train data": sha256(Path(manifests["train"]).read_bytes()),
                    "transcripts": sha256(texts.encode()),
                    "text_encoder": text_encoder_fingerprint(
                        hparams["text_encoder"]
                    ),
                },
                "tests": _tests(manifests),
                "utterances": 0,
            }
        )
    return found


#: By script: how its runs are identified, and folders that they share.
SCRIPTS = {
    "train.py": (
        identify_students,
        {"feature_folder": "features", "teacher_folder": "teachers"},
    ),
    "cascade.py": (identify_cascades, {"transcript_folder": "transcripts"}),
}
