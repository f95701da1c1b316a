"""A CTC head and listed sentences: which of them is said in a recording."""

import torch
from speechbrain.inference.ASR import EncoderASR

from slu_kd_lobes.data.text_units import END
from slu_kd_lobes.inference.sentence_graph import SentenceSearch
from slu_kd_lobes.losses.asr import LETTERS
from slu_kd_lobes.utils.fingerprints import weights_fingerprint
from slu_kd_lobes.utils.hub import load_interface


class SentenceRecogniser:
    """Finds what is said among the sentences of a graph.

    Arguments
    ---------
    source : str
        Folder or hub name of a recogniser that writes letters, such as
        recipes/LibriSpeech/CTC-head trains.
    graph : slu_kd_lobes.inference.sentence_graph.Graph
    device : str
    **options
        Of the search; see `SentenceSearch`.

    Raises
    ------
    ValueError
        If the model cannot be had, or does not write letters.
    """

    def __init__(self, source, graph, device="cpu", **options):
        interfaces = {"EncoderASR": EncoderASR}
        self.model = load_interface(
            "CTC head", source, "EncoderASR", interfaces, device
        )
        names = getattr(self.model.tokenizer, "names", [])
        columns = {x: names.index(x) for x in LETTERS if x in names}
        if missing := sorted(graph.letters - {*columns}):
            raise ValueError(
                f"the CTC head '{source}' does not write the letter "
                f"'{missing[0]}': train one with --written=letters, on more text"
            )
        self.letters = {*columns}
        self.symbols = {"columns": columns, "end": END}
        self.search = SentenceSearch(graph, **self.symbols, **options)
        self.sample_rate = self.model.hparams.sample_rate
        self.fingerprint = weights_fingerprint(self.model)

    @property
    def front_end(self):
        """What turns waveforms into features."""
        return self.model.mods.encoder.front_end

    @torch.inference_mode()
    def hear(self, features, lengths):
        """Returns the logarithms of the symbols' probabilities.

        Arguments
        ---------
        features : torch.Tensor
            Of the front end, [batch, frames, channels].
        lengths : torch.Tensor
            Frames of each item, [batch].

        Returns
        -------
        list of numpy.ndarray
            [frames, symbols] of each item.
        """
        modules = self.model.mods
        frames = modules.encoder.encoder(features, lengths)
        found = modules.recogniser.recognise(*frames)
        return [
            item[:size].cpu().numpy()
            for item, size in zip(found.ctc, found.lengths.tolist())
        ]

    @torch.inference_mode()
    def __call__(self, wavs):
        """Finds what is said.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms, [batch, samples].

        Returns
        -------
        list of Found or None
            See `SentenceSearch`.
        """
        features = self.front_end(wavs)
        return [self.search(item) for item in self.hear(*features)]
