"""Encoder features on disk, computed once and read as memory maps.

A store belongs to one encoder: its folder is named after a hash of the
weights, the class and the number type. Inside are shards, each a file of
frames and an index; audio that is not yet in any shard is encoded into a new
one. Every file is known by the hash of its content, so moved, renamed or
copied audio is found again and changed audio is not.
"""

import hashlib
import json
import mmap
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from speechbrain.dataio.batch import PaddedData
from speechbrain.utils.data_utils import batch_pad_right
from speechbrain.utils.logger import get_logger
from tqdm import tqdm

from slu_kd_lobes.data.audio import REMEDY, read_waveform
from slu_kd_lobes.data.batching import batches_within
from slu_kd_lobes.data.manifests import raise_if_any
from slu_kd_lobes.utils.files import check_writable, whole, write_text
from slu_kd_lobes.utils.fingerprints import (
    check_made_from,
    file_fingerprint,
    fingerprint,
    module_fingerprint,
)

logger = get_logger(__name__)

FORMAT = 2  # of the files; another number is another store

#: Frames of a memory map that may stay in this process's memory, in bytes.
RESIDENT_BYTES = 16 * 2**20


@dataclass
class StoredFeatures:
    """Features of a list of utterances, read straight into batches.

    Arguments
    ---------
    frames : list
        Shards, each all its frames one after the other, [frames, channels];
        often memory maps.
    shard : torch.Tensor
        Which of them holds each utterance, [utterances].
    starts : torch.Tensor
        First frame of each utterance in its shard, [utterances].
    lengths : torch.Tensor
        Frames of each utterance, [utterances].
    maps : list
        The memory maps under the frames, if any.
    audio : str or None
        Fingerprint of what was encoded.

    Example
    -------
    >>> stored = StoredFeatures(
    ...     [torch.arange(5.0).view(5, 1)],
    ...     shard=torch.tensor([0, 0]),
    ...     starts=torch.tensor([0, 2]),
    ...     lengths=torch.tensor([2, 3]),
    ... )
    >>> features, lengths = stored.batch([1, 0])
    >>> features.squeeze(-1), lengths
    (tensor([[2., 3., 4.],
            [0., 1., 0.]]), tensor([3, 2]))
    """

    frames: list
    shard: torch.Tensor
    starts: torch.Tensor
    lengths: torch.Tensor
    maps: list = field(default_factory=list)
    audio: str = None

    def __post_init__(self):
        self._read_bytes = 0

    def on_device_if_it_fits(self, device):
        """Returns the features where batches for a device are made fastest.

        On a GPU if they fill less than half of its free memory. For a CPU
        they stay memory maps, which the operating system keeps in memory.

        Arguments
        ---------
        device : str or torch.device
            Where the student trains.

        Returns
        -------
        StoredFeatures
        """
        device = torch.device(device)
        if device.type != "cuda":
            return self
        free, _ = torch.cuda.mem_get_info(device)
        if sum(part.nbytes for part in self.frames) > free / 2:
            return self
        return self.to(device)

    def to(self, device):
        """Returns the features on a device, where batches are then made.

        Arguments
        ---------
        device : str or torch.device
            A device with memory for all of them.

        Returns
        -------
        StoredFeatures
        """
        frames = [part.to(device) for part in self.frames]
        return replace(self, frames=frames, maps=[])

    def batch(self, indices):
        """Returns padded features.

        Arguments
        ---------
        indices : list or torch.Tensor
            Utterances of the batch.

        Returns
        -------
        features : torch.Tensor
            Float32, or int64 of codes, [batch, frames, channels]; zero after an
            item's end.
        lengths : torch.Tensor
            [batch].
        """
        indices = torch.as_tensor(indices)
        shard, starts = self.shard[indices], self.starts[indices]
        lengths = self.lengths[indices]
        steps = torch.arange(int(lengths.max()))
        inside = steps < lengths.unsqueeze(1)
        rows = starts.unsqueeze(1) + torch.where(inside, steps, 0)
        device = self.frames[0].device
        parts, places = [], []
        for number in shard.unique().tolist():
            # Found here, not on the device, which would have to be waited for.
            places.append(torch.nonzero(shard == number).squeeze(1))
            wanted = rows[places[-1]].flatten().to(device)
            part = self.frames[number].index_select(0, wanted)
            kind = torch.float if part.is_floating_point() else torch.long
            parts.append(part.to(kind))
        features = parts[0] if len(parts) == 1 else torch.cat(parts)
        features = features.view(*rows.shape, -1)
        if len(parts) > 1:
            features = features[torch.cat(places).argsort().to(device)]
        features = features * inside.unsqueeze(-1).to(device)
        self._release_pages(features.nbytes)
        return features, lengths

    def _release_pages(self, read):
        """Gives pages of the maps back now and then: memory stays flat.

        They remain in the cache of the operating system.
        """
        self._read_bytes += read
        if self._read_bytes > RESIDENT_BYTES and hasattr(mmap, "MADV_DONTNEED"):
            self._read_bytes = 0
            for source in self.maps:
                source.madvise(mmap.MADV_DONTNEED)


class FeatureStore:
    """Features of audio files under one frozen encoder, on disk.

    Arguments
    ---------
    folder : str or Path
        Where stores of all encoders live.
    encoder : torch.nn.Module
        Called with waveforms and relative lengths, it returns features
        [batch, frames, channels] and their lengths; put in eval mode here.
    dtype : str
        Of the numbers on disk: ``float32``, ``float16``, or ``int16`` for codes.
    sample_rate : int
        Rate that audio is resampled to, in Hz.
    device : str
        Where the encoder runs.
    batch_seconds : float
        Audio in one batch of the extraction.
    num_workers : int
        Processes that decode audio beside the encoder.

    Example
    -------
    >>> import tempfile
    >>> from speechbrain.dataio import audio_io
    >>> from slu_kd_lobes.students.sincnet import SincNetEncoder
    >>> folder = tempfile.mkdtemp()
    >>> audio_io.save(folder + "/a.wav", torch.rand(1, 16000), 16000)
    >>> store = FeatureStore(folder, SincNetEncoder())
    >>> stored = store.load([folder + "/a.wav"])
    >>> stored.batch([0])[0].shape
    torch.Size([1, 7, 256])
    """

    def __init__(
        self,
        folder,
        encoder,
        dtype="float32",
        sample_rate=16000,
        device="cpu",
        batch_seconds=160.0,
        num_workers=0,
    ):
        is_codes = hasattr(encoder, "codes")
        possible = ["int16"] if is_codes else ["float32", "float16"]
        if dtype not in possible:
            raise ValueError(
                f"{'codes' if is_codes else 'features'} cannot be stored as "
                f"{dtype}: choose {' or '.join(possible)}"
            )
        if is_codes and encoder.codes > 2**15:
            raise ValueError(f"{encoder.codes} codes are too many for {dtype}")
        self.encoder = encoder.eval().to(device)
        self.made_from = {
            "format": FORMAT,
            "encoder": module_fingerprint(encoder),
            "dtype": dtype,
            "sample_rate": sample_rate,
        }
        key = fingerprint(self.made_from)[:16]
        self.folder = Path(folder) / f"{type(encoder).__name__}-{key}"
        self.dtype = np.dtype(dtype)
        self.sample_rate = sample_rate
        self.device = device
        self.batch_seconds = batch_seconds
        self.num_workers = num_workers
        self._shards = None  # opened, and checked, once

    def build(self, wavs, durations=None):
        """Computes the features of the files that are not yet stored.

        A file that cannot be used is a ValueError; nothing is stored then.

        Arguments
        ---------
        wavs : list
            Paths of audio files.
        durations : list or None
            Their lengths in seconds, to batch files of similar length; None
            takes them as they come.
        """
        if self._shards is None:
            self._shards = self._open_shards()
        hashes = self._hashes(wavs)
        known = {item for shard in self._shards for item in shard["items"]}
        missing = {
            hashes[i]: i for i in range(len(wavs)) if hashes[i] not in known
        }
        if not missing:
            return
        logger.info(
            f"Encoding {len(missing)} of {len(wavs)} files into {self.folder}"
        )
        durations = durations if durations is not None else [2.5] * len(wavs)
        order = sorted(missing.values(), key=lambda i: durations[i])
        shard = self._encode(
            [wavs[i] for i in order],
            [durations[i] for i in order],
            # Never the name of another shard: that is still in use.
            fingerprint(list(missing))[:16],
        )
        self._shards.append(shard)

    def load(self, wavs, durations=None):
        """Returns the features of the files, computing those not yet stored.

        Arguments
        ---------
        wavs : list
            Paths of audio files.
        durations : list or None
            As for `build`.

        Returns
        -------
        StoredFeatures
            In the order of `wavs`.
        """
        self.build(wavs, durations)
        return self._join(self._shards, self._hashes(wavs))

    def _open_shards(self):
        """Every shard that is whole; damaged ones are deleted."""
        shards = []
        for path in sorted(self.folder.glob("*.json")):
            try:
                shard = json.loads(path.read_text(encoding="utf-8"))
                self._verify(path, shard)
            except (OSError, ValueError, KeyError, TypeError) as error:
                logger.warning(
                    f"{path} or its frames are damaged ({error}): they are "
                    "deleted and the features computed again"
                )
                path.unlink()
                path.with_suffix(".bin").unlink(missing_ok=True)
                continue
            shards.append({**shard, "path": path})
        return shards

    def _verify(self, path, shard):
        """Raises ValueError if frames and index do not belong together."""
        remedy = "encode again"
        check_made_from(path, shard["made_from"], self.made_from, remedy)
        size = shard["frames"] * shard["channels"] * self.dtype.itemsize
        frames = path.with_suffix(".bin")
        if frames.stat().st_size != size:
            raise ValueError("wrong size")
        digest = hashlib.sha256()
        with open(frames, "rb") as f:
            while block := f.read(2**20):
                digest.update(block)
        digest.update(_index_bytes(shard["items"], shard["files"]))
        if digest.hexdigest() != shard["sha256"]:
            raise ValueError("wrong checksum")

    def _hashes(self, wavs):
        """Content hash of each file; read only if a shard does not know it."""
        known = {}
        for shard in self._shards:
            known.update(shard["files"])
        hashes = []
        for wav in wavs:
            size, time, digest = known.get(os.path.abspath(wav), (0, 0, ""))
            stat = os.stat(wav)
            if (stat.st_size, stat.st_mtime_ns) != (size, time):
                digest = file_fingerprint(wav)
            hashes.append(digest)
        return hashes

    @torch.inference_mode()
    def _encode(self, wavs, durations, name):
        """Encodes files into a new shard and returns its index."""
        self.encoder.eval()
        check_writable(self.folder)
        loader = torch.utils.data.DataLoader(
            _AudioFiles(wavs, self.sample_rate),
            batch_sampler=batches_within(durations, self.batch_seconds),
            collate_fn=_collate,
            num_workers=self.num_workers,
        )
        items, files, frames, faults = {}, {}, 0, []
        digest = hashlib.sha256()
        progress = tqdm(
            total=len(wavs), desc="Encoder features", unit="utterance"
        )
        path = self.folder / f"{name}.bin"
        with whole(path) as part, open(part, "wb") as out, progress:
            for found, batch in loader:
                faults += found
                if faults:  # the other files are only looked at
                    continue
                paths, stats, hashes, (sig, lens) = batch
                features, lengths = self.encoder(
                    sig.to(self.device), lens.to(self.device)
                )
                features = features.cpu().numpy().astype(self.dtype)
                if not files:  # the first batch tells the size of all
                    share = sig.numel() / self.sample_rate / sum(durations)
                    need = features.nbytes / share / 2**20
                    check_writable(self.folder, need)
                for i, length in enumerate(lengths.tolist()):
                    if not np.isfinite(features[i, :length]).all():
                        faults.append(f"{paths[i]} gives NaN in {self.dtype}")
                    data = features[i, :length].tobytes()
                    digest.update(data)
                    out.write(data)
                    items[hashes[i]] = (frames, length)
                    files[paths[i]] = (*stats[i], hashes[i])
                    frames += length
                progress.update(len(paths))
            raise_if_any(faults, REMEDY)
        digest.update(_index_bytes(items, files))
        shard = {
            "made_from": self.made_from,
            "frames": frames,
            "channels": features.shape[-1],
            "sha256": digest.hexdigest(),
            "items": items,
            "files": files,
        }
        # The index comes last: frames without an index are not a shard.
        path = self.folder / f"{name}.json"
        write_text(path, json.dumps(shard))
        return {**shard, "path": path}

    def _join(self, shards, hashes):
        """One view on the frames of all shards that are needed."""
        needed = set(hashes)
        shards = [s for s in shards if needed & s["items"].keys()]
        frames, maps, place = [], [], {}
        for number, shard in enumerate(shards):
            with open(shard["path"].with_suffix(".bin"), "rb") as f:
                maps.append(mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY))
            flat = torch.frombuffer(
                maps[-1], dtype=getattr(torch, self.dtype.name)
            )
            frames.append(flat.view(-1, shard["channels"]))
            for item, (start, length) in shard["items"].items():
                place[item] = (number, start, length)
        where = torch.tensor([place[item] for item in hashes])
        audio = fingerprint(list(hashes))
        return StoredFeatures(frames, *where.view(-1, 3).unbind(1), maps, audio)


def _index_bytes(items, files):
    """What the checksum of a shard covers beside its frames."""
    return json.dumps([items, files]).encode()


class _AudioFiles(torch.utils.data.Dataset):
    """Waveforms with what identifies their file."""

    def __init__(self, wavs, sample_rate):
        self.wavs = wavs
        self.sample_rate = sample_rate

    def __getitem__(self, index):
        path = os.path.abspath(self.wavs[index])
        stat = os.stat(path)
        digest = file_fingerprint(path)
        try:
            wav = read_waveform(path, self.sample_rate)
        except ValueError as fault:  # raised here, it would end the others
            return str(fault).removesuffix(f": {REMEDY}")
        return path, (stat.st_size, stat.st_mtime_ns), digest, wav


def _collate(items):
    """What is wrong with the files, or else their batch."""
    faults = [item for item in items if isinstance(item, str)]
    if faults:
        return faults, None
    *facts, wavs = zip(*items)
    return faults, (*facts, PaddedData(*batch_pad_right(list(wavs))))
