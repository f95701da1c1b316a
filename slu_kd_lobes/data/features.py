"""What the student hears: encoder features, stored or made anew.

Either object is called with the inputs of a batch and gives features and their
lengths, so a recipe does not know which it has: what cannot be combined, such
as a store and an encoder that trains, cannot be written.
"""

from speechbrain.utils.data_utils import batch_pad_right
from speechbrain.utils.distributed import is_distributed_initialized

from slu_kd_lobes.data.audio import read_waveform
from slu_kd_lobes.data.feature_store import FeatureStore, StoredFeatures

__all__ = ["OnTheFly", "Stored", "StoredFeatures", "Waveforms"]


class Stored:
    """Features of a frozen encoder, computed once.

    Arguments
    ---------
    encoder : torch.nn.Module
        See :mod:`slu_kd_lobes.students.encoders` for what it must be.
    device : str
        Where the student trains and the encoder runs.
    folder : str or Path
        Where stores live.
    dtype : str
        Type of the numbers on disk: ``float32``, or ``float16`` for half the
        size; ``int16`` for audio tokens.
    sample_rate : int
        Rate that audio is resampled to, in Hz.
    num_workers : int
        Processes that decode audio beside the encoder.

    Raises
    ------
    ValueError
        If the encoder is untrained, or hears another rate.
    """

    trains = False
    #: Stored features are read faster than another process hands them over.
    loader_workers = 0

    def __init__(
        self,
        encoder,
        device,
        folder,
        dtype="float32",
        sample_rate=16000,
        num_workers=0,
    ):
        check_encoder(encoder, sample_rate)
        self.encoder = encoder
        self.device = device
        self.store = FeatureStore(
            folder,
            encoder,
            dtype=dtype,
            sample_rate=sample_rate,
            device=device,
            num_workers=num_workers,
        )

    def build(self, rows):
        """Encodes the utterances that are not yet stored.

        Arguments
        ---------
        rows : list of dict
            With ``wav``, a path, and ``duration`` in seconds.
        """
        self.store.build(
            [row["wav"] for row in rows], [row["duration"] for row in rows]
        )

    def load(self, rows):
        """Returns the `StoredFeatures` of utterances; see `build`."""
        stored = self.store.load([row["wav"] for row in rows])
        return stored.on_device_if_it_fits(self.device)

    def start_epoch(self, epoch):
        """Nothing changes."""

    def __call__(self, inputs, lengths, training=False):
        """Returns features and lengths as they are."""
        return inputs, lengths


class OnTheFly:
    """Features that the encoder makes anew in every epoch.

    Arguments
    ---------
    encoder : torch.nn.Module
        See :mod:`slu_kd_lobes.students.encoders` for what it must be.
    device : str
        Where it runs.
    sample_rate : int
        Rate that audio is resampled to, in Hz.
    dropout : bool
        Whether dropout is on in the frozen layers while the student trains,
        as in the published code of Lugosch et al. 2019.
    unfreezing : callable or None
        Sets which layers train in an epoch; see
        :mod:`slu_kd_lobes.students.unfreezing`. None: none.
    num_workers : int
        Processes that decode audio ahead.

    Raises
    ------
    ValueError
        If the encoder is untrained, hears another rate, or cannot change.
    """

    def __init__(
        self,
        encoder,
        device,
        sample_rate=16000,
        dropout=False,
        unfreezing=None,
        num_workers=0,
    ):
        self.trains = unfreezing is not None
        check_encoder(encoder, sample_rate, self.trains)
        if encoder.frozen and (dropout or self.trains):
            raise ValueError(
                f"{type(encoder).__name__} stays as it is: choose stored or "
                "on_the_fly for features"
            )
        if self.trains and is_distributed_initialized():
            raise ValueError(
                "an encoder that unfreezes cannot train in several processes: "
                "start without torchrun, or choose other features"
            )
        self.encoder = encoder.requires_grad_(False).to(device)
        self.sample_rate = sample_rate
        self.moves = dropout or self.trains
        self.loader_workers = num_workers
        self.unfreezing = unfreezing

    def build(self, rows):
        """Nothing is made ahead."""

    def load(self, rows):
        """Returns the `Waveforms` of utterances; see `Stored.build`."""
        return Waveforms(
            [row["wav"] for row in rows],
            [round(1000 * row["duration"]) for row in rows],
            self.sample_rate,
        )

    def start_epoch(self, epoch):
        """Sets which layers train.

        Arguments
        ---------
        epoch : int
            Counted from 1.
        """
        if self.trains:
            self.unfreezing(self.encoder, epoch)

    def __call__(self, inputs, lengths, training=False):
        """Encodes a batch.

        Arguments
        ---------
        inputs : torch.Tensor
            Waveforms, [batch, samples].
        lengths : torch.Tensor
            Relative lengths, [batch].
        training : bool
            Whether the student trains.

        Returns
        -------
        features : torch.Tensor
            [batch, frames, channels].
        lengths : torch.Tensor
            Frames of each item, [batch].
        """
        self.encoder.train(training and self.moves)
        return self.encoder(inputs, lengths)


class Waveforms:
    """Audio files that are read a batch at a time.

    Arguments
    ---------
    paths : list of str
    lengths : list of int
        Milliseconds of each, to batch similar ones.
    sample_rate : int
        In Hz.

    Example
    -------
    >>> import torch
    >>> from speechbrain.dataio import audio_io
    >>> path = str(getfixture("tmp_path") / "a.wav")
    >>> audio_io.save(path, torch.rand(1, 1600), 16000)
    >>> wavs, lengths = Waveforms([path], [100], 16000).batch([0])
    >>> wavs.shape, lengths
    (torch.Size([1, 1600]), tensor([1.]))
    """

    def __init__(self, paths, lengths, sample_rate):
        self.paths = paths
        self.lengths = lengths
        self.sample_rate = sample_rate

    def batch(self, indices):
        """Returns padded waveforms, [batch, samples], and relative lengths."""
        return batch_pad_right(
            [read_waveform(self.paths[i], self.sample_rate) for i in indices]
        )


def check_encoder(encoder, sample_rate, trains=False):
    """Refuses an encoder that hears nothing, or hears at another rate.

    Arguments
    ---------
    encoder : torch.nn.Module
    sample_rate : int
        In Hz.
    trains : bool
        Whether it will train with the student.

    Raises
    ------
    ValueError
        If it does not fit.
    """
    if encoder.sample_rate != sample_rate:
        raise ValueError(
            f"the encoder hears {encoder.sample_rate} Hz: set sample_rate to "
            f"that, not to {sample_rate}"
        )
    if encoder.untrained and not trains:
        raise ValueError(
            "encoder_source is null and the encoder does not train: an encoder "
            "that is neither pre-trained nor trained hears nothing"
        )
