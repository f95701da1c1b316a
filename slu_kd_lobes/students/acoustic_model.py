"""Convolutions and BiLSTMs over the states of a speech encoder.

Source: Amodei et al. 2016, "Deep Speech 2: End-to-End Speech Recognition in
English and Mandarin", in the sizes of Kim et al. 2020, "Two-stage Textual
Knowledge Distillation for End-to-End Spoken Language Understanding", and its
published code.
"""

from pathlib import Path

import torch
from speechbrain.dataio.dataio import length_to_mask

from slu_kd_lobes.utils.fingerprints import check_made_from, file_fingerprint
from slu_kd_lobes.utils.sealed import load_sealed, save_sealed


class AcousticModel(torch.nn.Module):
    """Two convolutions over channels and time, then BiLSTMs.

    Both directions of a BiLSTM are summed. In eval mode padding changes
    nothing: what is after an item's end is set to zero before the convolutions
    and after each of their steps. In training their normalisation counts these
    zeros, as in the published code; that between BiLSTMs sees the frames of
    items alone. (In the published code it counts the padding, too.)

    Arguments
    ---------
    input_size : int
        Channels of the encoder's states.
    hidden_size : int
        Units of each direction of a BiLSTM.
    num_layers : int
        BiLSTMs.
    channels : int
        Maps of each convolution.
    stride : int
        States that make a frame: 2 for states every 10 or 20 ms, 1 where half
        as many would be fewer than the letters of speech, some 15 a second.

    Example
    -------
    >>> model = AcousticModel(16, hidden_size=8, num_layers=2, channels=4)
    >>> frames, lengths = model(torch.rand(2, 23, 16), torch.tensor([23, 12]))
    >>> frames.shape, lengths
    (torch.Size([2, 12, 8]), tensor([12,  6]))
    """

    def __init__(
        self,
        input_size=768,
        hidden_size=768,
        num_layers=5,
        channels=32,
        stride=2,
    ):
        super().__init__()
        self.sizes = {
            "input_size": input_size,
            "hidden_size": hidden_size,
            "num_layers": num_layers,
            "channels": channels,
            "stride": stride,
        }
        first = dict(kernel_size=(41, 11), stride=(2, stride), padding=(20, 5))
        second = dict(kernel_size=(21, 11), stride=(2, 1), padding=(10, 5))
        self.convolutions = torch.nn.ModuleList(
            [
                torch.nn.Conv2d(1, channels, **first),
                torch.nn.BatchNorm2d(channels),
                torch.nn.Hardtanh(0, 20),
                torch.nn.Conv2d(channels, channels, **second),
                torch.nn.BatchNorm2d(channels),
                torch.nn.Hardtanh(0, 20),
            ]
        )
        width = (input_size + 3) // 4  # each convolution halves the channels
        sizes = [channels * width] + (num_layers - 1) * [hidden_size]
        self.onward, self.backward = (
            torch.nn.ModuleList(
                torch.nn.LSTM(size, hidden_size, batch_first=True)
                for size in sizes
            )
            for _ in range(2)
        )
        self.norms = torch.nn.ModuleList(
            torch.nn.BatchNorm1d(hidden_size) for _ in sizes[1:]
        )
        self.output_size, self.stride = hidden_size, stride

    def forward(self, states, lengths):
        """Returns the frames after the last BiLSTM.

        Arguments
        ---------
        states : torch.Tensor
            [batch, frames, input_size].
        lengths : torch.Tensor
            Frames of each item, [batch].

        Returns
        -------
        frames : torch.Tensor
            [batch, ceil(frames / stride), hidden_size], zero after an item's
            end.
        lengths : torch.Tensor
            Frames of each item, [batch].
        """
        lengths = lengths.to(states.device)
        inside = length_to_mask(lengths, states.shape[1], dtype=torch.bool)
        # What an encoder has at padding would reach the frames before it.
        x = states.masked_fill(~inside.unsqueeze(-1), 0)
        x = x.transpose(1, 2).unsqueeze(1)  # [batch, 1, channels, frames]
        lengths = self.frames_of(lengths)
        size = self.frames_of(states.shape[1])
        inside = length_to_mask(lengths, size, dtype=torch.bool)
        padding = ~inside[:, None, None]
        for module in self.convolutions:
            x = module(x).masked_fill(padding, 0)
        x = x.flatten(1, 2).transpose(1, 2)  # maps x channels, side by side
        # Backwards each item starts at its own end. No sequence is packed: a
        # CPU is twice as fast.
        order = torch.arange(size, device=x.device)
        places = torch.where(inside, lengths.unsqueeze(1) - 1 - order, order)
        places = places.unsqueeze(-1)
        for number, (onward, backward) in enumerate(
            zip(self.onward, self.backward)
        ):
            if number > 0:
                x = self._normalised(self.norms[number - 1], x, inside)
            reverse, _ = backward(x.gather(1, places.expand_as(x)))
            reverse = reverse.gather(1, places.expand_as(reverse))
            x = (onward(x)[0] + reverse).masked_fill(~inside.unsqueeze(-1), 0)
        return x, lengths

    def frames_of(self, states):
        """Number of frames that come of a number of states, of one or many."""
        return (states + self.stride - 1) // self.stride

    @staticmethod
    def _normalised(norm, x, inside):
        """Normalises the frames of items, without those of the padding."""
        y = torch.zeros_like(x)
        y[inside] = norm(x[inside]).to(x.dtype)
        return y

    def save(self, path, made_from):
        """Writes weights and sizes, whole or not at all.

        Arguments
        ---------
        path : str or Path
            A ``.safetensors`` file.
        made_from : dict
            Fingerprints of what it was trained on, with that of the
            ``encoder`` whose states it has read.
        """
        facts = {"sizes": self.sizes, "made_from": made_from}
        save_sealed(path, self.state_dict(), **facts)

    def load(self, path, encoder):
        """Takes the weights that `save` wrote.

        Arguments
        ---------
        path : str or Path
        encoder : str
            Fingerprint of the encoder whose states it will read.

        Returns
        -------
        str
            Fingerprint of the file.

        Raises
        ------
        FileNotFoundError
            If it is not there.
        ValueError
            If it is damaged, of a model of other sizes, or has read the states
            of another encoder.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(
                f"there is no acoustic model {path}: run its pre-training, or "
                "leave acoustic_model out"
            )
        remedy = "delete it, and its training ends anew"
        weights, facts = load_sealed(path, remedy)
        sizes = facts["sizes"]
        if sizes != self.sizes:
            different = [k for k in sizes if sizes[k] != self.sizes.get(k)]
            raise ValueError(
                f"{path} has {', '.join(f'{k} {sizes[k]}' for k in different)}"
                f", and the student "
                f"{', '.join(str(self.sizes[k]) for k in different)}: give both "
                "the same"
            )
        check_made_from(
            path,
            {"encoder": facts["made_from"].get("encoder")},
            {"encoder": encoder},
            "give that one, or run the pre-training of the acoustic model",
        )
        self.load_state_dict(weights)
        return file_fingerprint(path)
