"""A packaged model as one ONNX file, for onnxruntime.

It needs the extra ``onnx`` of setup.py.
"""

import importlib.util
import json
import warnings

import torch

from slu_kd_lobes.students.sincnet import SincNetEncoder
from slu_kd_lobes.utils.distribution import extra_command
from slu_kd_lobes.utils.files import whole

OPSET = 17


class _Utterance(torch.nn.Module):
    """One utterance of any length to the logits of all slots."""

    def __init__(self, encoder, student):
        super().__init__()
        self.encoder = encoder
        self.student = student

    def forward(self, wav):
        encoder = self.encoder
        x, _ = encoder.front_end(wav)
        for layer in [*encoder.phoneme_layers, *encoder.word_layers]:
            x, _ = layer(x)
        return self.student(x)


def export_onnx(model, path, int8=False):
    """Writes encoder and student as one file; whole or not at all.

    Its input ``wav`` is one waveform, [1, samples]; its output ``logits`` is
    [1, values], the values of all slots side by side. Its metadata say
    ``slots`` (JSON, in the order of the logits), ``threshold``,
    ``sample_rate`` and ``sha256``.

    Arguments
    ---------
    model : SpokenIntentClassifier
        With a SincNet encoder.
    path : str or Path
        The ``.onnx`` file.
    int8 : bool
        Stores the weights of products and convolutions as 8-bit integers.

    Raises
    ------
    ValueError
        If the encoder is of another kind, or the extra is not installed.
    """
    if not isinstance(model.mods.encoder, SincNetEncoder):
        raise ValueError(
            f"{type(model.mods.encoder).__name__} cannot be exported: only a "
            "model on the SincNet encoder can"
        )
    for package in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise ValueError(
                f"{package} is not installed: {extra_command('onnx')}"
            )
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    utterance = _Utterance(model.mods.encoder, model.mods.student).eval()
    facts = {
        "slots": json.dumps(model.schema.values),
        "threshold": str(model.threshold),
        "sample_rate": str(model.sample_rate),
        "sha256": model.hparams.sha256,
    }
    with whole(path) as part:
        with torch.no_grad(), warnings.catch_warnings():
            # The exporter by tracing keeps a GRU as one operator; the newer
            # one cannot yet do so for any length.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                utterance,
                (torch.zeros(1, 2 * model.sample_rate),),
                str(part),
                input_names=["wav"],
                output_names=["logits"],
                dynamic_axes={"wav": {1: "samples"}},
                opset_version=OPSET,
                dynamo=False,
            )
        if int8:
            with whole(part.with_suffix(".int8")) as small:
                quantize_dynamic(part, small, weight_type=QuantType.QInt8)
            part.with_suffix(".int8").replace(part)
        graph = onnx.load(part)
        for key, value in facts.items():
            graph.metadata_props.add(key=key, value=value)
        onnx.save(graph, part)
