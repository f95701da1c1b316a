"""A model of a stranger makes building blocks and nothing else."""

import shutil

import pytest
import torch
from tiny_models import SPEECHBRAIN_ASR

from slu_kd_lobes.inference import classifier
from slu_kd_lobes.students.encoders import SpeechBrainEncoder
from slu_kd_lobes.utils.blocks import RefusedModel, is_block, load_blocks

#: Would make the file {trace}, each in another way.
ATTACKS = {
    "apply": "x: !apply:pathlib.Path.touch [{path}]",
    "function": "x: !apply:os.mkdir [{trace}]",
    "class": "x: !new:logging.FileHandler [{trace}]",
    "name": "x: !name:os.system",
    "partial": "x: !name:os.mkdir\n    path: {trace}",
    "module": "x: !module:ctypes",
    "python tag": "x: !!python/object/apply:os.mkdir [{trace}]",
    "python name": "x: !!python/name:os.mkdir",
    "verbatim tag": (
        "x: !<tag:yaml.org,2002:python/object/apply:os.mkdir> [{trace}]"
    ),
    "directive": (
        "%TAG !e! tag:yaml.org,2002:python/object/apply:\n---\n"
        "x: !e!os.mkdir [{trace}]"
    ),
    "escaped tag": "x: !apply:os%2Emkdir [{trace}]",
    "tuple": "x: (!!python/object/apply:os.mkdir ['{trace}'])",
    "tagged tuple": "x: !tuple \"(!!python/object/apply:os.mkdir ['{trace}'])\"",
    "include": "x: !include:{folder}/other.yaml",
    "apply while resolving": "x: !applyref:os.mkdir [{trace}]",
    "anchor": "a: &a !apply:os.mkdir [{trace}]\nb: *a",
    "merge": "a: &a {{b: !apply:os.mkdir [{trace}]}}\nc:\n  <<: *a",
    "depth": "a: {{b: [{{c: [[!apply:os.mkdir [{trace}]]]}}]}}",
    "key": "? !apply:os.mkdir [{trace}]\n: 1",
    "hidden key": "__x: !apply:os.mkdir [{trace}]",
    "argument": (
        "x: !new:torch.nn.Linear\n    in_features: !apply:os.mkdir [{trace}]"
    ),
    "copy": "a: {{b: !apply:os.mkdir [{trace}]}}\nx: !copy <a>",
    "attribute": "a: !new:torch.nn.Linear [1, 1]\nx: !ref <a.__class__>",
    "module of a module": "x: !apply:speechbrain.nnet.CNN.torch.hub.load [a]",
    "imported name": "x: !name:speechbrain.dataio.encoder.ast.literal_eval",
    "function of a block": "x: !apply:speechbrain.nnet.losses.mse_loss [1, 2]",
    "other code of ours": "x: !new:slu_kd_lobes.data.audio.Path [{trace}]",
    "code on the hub": (
        "x: !new:speechbrain.integrations.huggingface.hubert.HuBERT\n"
        "    source: a/b\n    save_path: c\n    trust_remote_code: True"
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_would_run_code_is_refused(tmp_path, attack):
    """In one sentence, and nothing has run."""
    trace = tmp_path / "trace"
    (tmp_path / "other.yaml").write_text(f"y: !apply:os.mkdir [{trace}]")
    path = f"!apply:pathlib.Path [{trace}]"
    text = ATTACKS[attack].format(trace=trace, folder=tmp_path, path=path)
    with pytest.raises(RefusedModel, match="line . would run") as caught:
        load_blocks(text)
    assert "\n" not in str(caught.value)
    assert not trace.exists()


def test_text_of_a_reference_stays_text(tmp_path):
    """Text that references put together is never parsed."""
    trace = tmp_path / "trace"
    made = load_blocks(
        f"a: \"!!python/object/apply:os.mkdir ['{trace}']\"\n"
        "b: !ref (<a>)\nc: !ref <a> + 1\n"
    )
    assert made["b"] == f"({made['a']})"
    assert not trace.exists()


def test_blocks_are_what_hyperpyyaml_makes():
    """References, tuples, arithmetic, overrides and objects."""
    text = (
        "size: 2\ndouble: !ref 2 * <size>\npair: (1, 2.5)\n"
        "layer: !new:torch.nn.Linear [!ref <size>, !ref <double>]\n"
        "activation: !name:torch.nn.LeakyReLU\n    negative_slope: 0.1\n"
        "both: !new:speechbrain.nnet.containers.Sequential\n"
        "    input_shape: [null, null, !ref <size>]\n    layer: !ref <layer>\n"
    )
    made = load_blocks(text, {"size": 3})
    assert made["pair"] == (1, 2.5) and made["double"] == 6
    assert made["layer"].weight.shape == (6, 3)
    assert made["both"]["layer"] is made["layer"]
    assert made["activation"]().negative_slope == 0.1
    assert load_blocks(SPEECHBRAIN_ASR)["sample_rate"] == 8000


def test_where_something_is_defined_counts():
    """And not through which module it is reached."""
    assert is_block("torch.nn.GELU")
    assert is_block("speechbrain.lobes.models.CRDNN.CRDNN")
    assert not is_block("speechbrain.nnet.linear.nothing")
    assert not is_block("speechbrain.nnet.linear.logging.FileHandler")
    assert not is_block("torch.load")
    assert not is_block("this.module.is.not.imported")


def edited(source, folder, old, new):
    """A copy of a model whose YAML says something else."""
    copy = folder / "copy"
    shutil.copytree(source, copy)
    path = copy / "hyperparams.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    return copy


def test_a_packaged_model_runs_no_code(package, tmp_path):
    """Also with a seal that fits: whoever edits the file can seal it."""
    trace = tmp_path / "trace"
    copy = edited(
        package,
        tmp_path,
        "package_folder: .",
        f"package_folder: !apply:os.mkdir [{trace}]",
    )
    path = copy / "hyperparams.yaml"
    text = path.read_text().rpartition(classifier.SEAL)[0]
    path.write_text(
        classifier.sealed(text + f"extra: !apply:os.mkdir [{trace}]\n")
    )
    message = "hyperparams.yaml, line .* would run '!apply:os.mkdir'"
    with pytest.raises(ValueError, match=message):
        classifier.SpokenIntentClassifier.from_hparams(copy)
    assert not trace.exists()


def test_an_encoder_of_speechbrain_runs_no_code(asr, tmp_path):
    """The folder that --encoder_source or a packaged model names."""
    assert SpeechBrainEncoder(asr, "EncoderASR").feature_size == 12
    trace = tmp_path / "trace"
    copy = edited(
        asr,
        tmp_path,
        "!new:torch.nn.Identity",
        f"!new:logging.FileHandler [{trace}]",
    )
    with pytest.raises(ValueError, match="would run '!new:logging.FileHandler"):
        SpeechBrainEncoder(str(copy), "EncoderASR")
    assert not trace.exists()


def test_weights_that_are_pickled_code_are_refused(package, tmp_path):
    """torch reads tensors alone."""
    copy = tmp_path / "copy"
    shutil.copytree(package, copy)
    trace = tmp_path / "trace"

    class Code:
        def __reduce__(self):
            return trace.touch, ()

    torch.save({"weight": Code()}, copy / "student.ckpt")
    with pytest.raises(ValueError, match="student|Weights only"):
        classifier.SpokenIntentClassifier.from_hparams(copy)
    assert not trace.exists()
