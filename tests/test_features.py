"""The feature store: the encoder's own numbers, encoded once, never stale."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from speechbrain.dataio import audio_io

from slu_kd_lobes.data.audio import read_waveform
from slu_kd_lobes.data.feature_store import FeatureStore, StoredFeatures
from slu_kd_lobes.data.features import OnTheFly, Stored
from slu_kd_lobes.students.dropout import Dropout
from slu_kd_lobes.students.encoders import TransformerEncoder
from slu_kd_lobes.students.sincnet import SincNetEncoder
from slu_kd_lobes.students.unfreezing import GradualUnfreezing
from slu_kd_lobes.utils.fingerprints import module_fingerprint

PROJECT = Path(__file__).resolve().parents[1]


class CountedEncoder(SincNetEncoder):
    """Notes how many waveforms it encodes."""

    def __init__(self):
        super().__init__()
        self.encoded = 0

    def forward(self, wavs, wav_lens=None):
        self.encoded += len(wavs)
        return super().forward(wavs, wav_lens)


@pytest.fixture
def encoder():
    """In training mode, as an encoder comes from its constructor."""
    return CountedEncoder()


@pytest.fixture
def wavs(tmp_path):
    """Three files of different lengths."""
    return [
        write_wav(tmp_path / f"{name}.wav", samples)
        for name, samples in {"a": 8000, "b": 12345, "c": 3001}.items()
    ]


def write_wav(path, samples):
    """Writes noise and returns the path as text."""
    audio_io.save(str(path), 0.3 * torch.randn(1, samples), 16000)
    return str(path)


def reference(encoder, path):
    """Features of one file, without a store."""
    with torch.no_grad():
        wav = read_waveform(path, 16000)
        return SincNetEncoder.forward(encoder.eval(), wav.unsqueeze(0))[0][0]


def check(store, wavs, atol=1e-5):
    """Loads files, and compares each with the encoder's own features."""
    stored = store.load(wavs)
    for i, wav in enumerate(wavs):
        features, lengths = stored.batch([i])
        expected = reference(store.encoder, wav)
        assert lengths.tolist() == [len(expected)]
        torch.testing.assert_close(features[0], expected, rtol=0, atol=atol)
    return stored


def index_and_frames(store):
    """The only shard of a store."""
    (index,) = store.folder.glob("*.json")
    return index, index.with_suffix(".bin")


def flip_byte(path, place):
    """Changes one bit of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_stored_features_are_those_of_the_encoder(tmp_path, encoder, wavs):
    """In one padded batch, whatever the order of its items."""
    stored = check(FeatureStore(tmp_path / "store", encoder), wavs)
    assert encoder.encoded == 3
    features, lengths = stored.batch([2, 1, 0, 1])
    assert lengths.tolist() == [2, 5, 4, 5]
    assert features.shape == (4, 5, 256)
    assert torch.equal(features[1], features[3])
    for row, length, wav in zip(features, lengths, "cbab"):
        expected = reference(encoder, str(tmp_path / f"{wav}.wav"))
        torch.testing.assert_close(row[:length], expected, rtol=0, atol=1e-5)
        assert not row[length:].any()


def test_files_are_encoded_once(tmp_path, encoder, wavs):
    """By this store and by the next one, in any order, repeated or not."""
    store = FeatureStore(tmp_path / "store", encoder)
    check(store, wavs)
    check(store, wavs[::-1])
    again = FeatureStore(tmp_path / "store", encoder)
    check(again, [wavs[1], wavs[0], wavs[1]])
    assert encoder.encoded == 3


def test_repeated_files_are_encoded_once(tmp_path, encoder, wavs):
    """The same path twice, and a copy of it."""
    copy = str(tmp_path / "copy.wav")
    shutil.copy(wavs[0], copy)
    check(FeatureStore(tmp_path / "store", encoder), [wavs[0], wavs[0], copy])
    assert encoder.encoded == 1


def test_moved_and_copied_audio_is_found_again(tmp_path, encoder, wavs):
    """Files are known by their content."""
    check(FeatureStore(tmp_path / "store", encoder), wavs)
    moved, copied = str(tmp_path / "moved.wav"), str(tmp_path / "copied.wav")
    shutil.copy(wavs[1], copied)
    os.rename(wavs[0], moved)
    check(FeatureStore(tmp_path / "store", encoder), [moved, copied, wavs[2]])
    assert encoder.encoded == 3


@pytest.mark.parametrize("fresh", [False, True])
def test_changed_audio_is_encoded_again(tmp_path, encoder, wavs, fresh):
    """Same name, same size, other samples; by this or the next store."""
    store = FeatureStore(tmp_path / "store", encoder)
    check(store, wavs)
    size = os.path.getsize(wavs[0])
    write_wav(wavs[0], 8000)
    assert os.path.getsize(wavs[0]) == size
    if fresh:
        store = FeatureStore(tmp_path / "store", encoder)
    check(store, wavs)
    assert encoder.encoded == 4
    check(FeatureStore(tmp_path / "store", encoder), wavs)
    assert encoder.encoded == 4


@pytest.mark.parametrize("fresh", [False, True])
def test_old_audio_keeps_its_features(tmp_path, encoder, wavs, fresh):
    """A file that changes does not take its copy's features along."""
    store = FeatureStore(tmp_path / "store", encoder)
    check(store, wavs[:1])
    copy = str(tmp_path / "copy.wav")
    shutil.copy(wavs[0], copy)
    write_wav(wavs[0], 8000)
    if fresh:
        store = FeatureStore(tmp_path / "store", encoder)
    check(store, [wavs[0]])
    check(store, [wavs[0], copy])
    shutil.copy(copy, wavs[0])
    check(store, [wavs[0], copy])
    assert encoder.encoded == 2


def test_shards_are_joined(tmp_path, encoder, wavs):
    """Each load adds what is new; all of it reads as one."""
    store = FeatureStore(tmp_path / "store", encoder)
    for n in (1, 2, 3):
        check(store, wavs[:n])
    check(store, [wavs[2], wavs[0], wavs[1], wavs[2]])
    assert encoder.encoded == 3
    assert len(list(store.folder.glob("*.json"))) == 3
    check(FeatureStore(tmp_path / "store", encoder), wavs[::-1])
    assert encoder.encoded == 3


def test_durations_make_the_batches(tmp_path, encoder, wavs):
    """Similar lengths together, within the seconds of a batch."""
    sizes = []
    encoder.register_forward_pre_hook(
        lambda module, inputs: sizes.append(tuple(inputs[0].shape))
    )
    store = FeatureStore(tmp_path / "store", encoder, batch_seconds=1.0)
    stored = store.load(wavs, durations=[0.5, 0.77, 0.19])
    assert sizes == [(2, 8000), (1, 12345)]
    for i, wav in enumerate(wavs):
        torch.testing.assert_close(
            stored.batch([i])[0][0], reference(encoder, wav), rtol=0, atol=1e-5
        )


def test_audio_may_be_decoded_by_other_processes(tmp_path, encoder, wavs):
    """The same features with workers."""
    check(FeatureStore(tmp_path / "store", encoder, num_workers=2), wavs)


def test_other_rates_are_resampled(tmp_path, encoder):
    """Half a second at 8 kHz has as many frames as at 16 kHz."""
    path = str(tmp_path / "slow.wav")
    audio_io.save(path, 0.3 * torch.randn(1, 4000), 8000)
    stored = check(FeatureStore(tmp_path / "store", encoder), [path])
    assert stored.lengths.tolist() == [4]


def test_half_precision_is_close_and_half_the_size(tmp_path, encoder, wavs):
    """float16 keeps 3 decimals; batches are float32 all the same."""
    stores = [
        FeatureStore(tmp_path / "store", encoder, dtype=dtype)
        for dtype in ("float32", "float16")
    ]
    assert stores[0].folder != stores[1].folder
    exact, rounded = check(stores[0], wavs), check(stores[1], wavs, atol=5e-4)
    assert rounded.batch([0])[0].dtype == torch.float32
    assert not torch.equal(rounded.batch([0])[0], exact.batch([0])[0])
    sizes = [index_and_frames(store)[1].stat().st_size for store in stores]
    assert sizes[0] == 2 * sizes[1] == 4 * 256 * (4 + 5 + 2)


def test_unknown_number_type_is_refused(tmp_path, encoder):
    """With those that there are."""
    with pytest.raises(ValueError, match="as int8: choose float32 or float16"):
        FeatureStore(tmp_path, encoder, dtype="int8")


def test_dropout_is_off_whatever_the_encoder_was(tmp_path, encoder, wavs):
    """Also when training mode is set between two loads."""
    store = FeatureStore(tmp_path / "store", encoder)
    encoder.train()
    stored = store.load(wavs)
    assert not encoder.training
    torch.testing.assert_close(
        stored.batch([1])[0][0], reference(encoder, wavs[1]), rtol=0, atol=1e-5
    )


def test_a_store_belongs_to_one_encoder(tmp_path, encoder, wavs):
    """Other weights, dropout, class or rate are another folder."""
    folder = tmp_path / "store"
    stores = [FeatureStore(folder, encoder)]
    other = SincNetEncoder()
    other.load_state_dict(encoder.state_dict())
    stores.append(FeatureStore(folder, other))
    stores.append(FeatureStore(folder, encoder, sample_rate=8000))
    stores.append(FeatureStore(folder, CountedEncoder()))
    encoder.front_end.conv1.conv.bias.data[0] += 1e-6
    stores.append(FeatureStore(folder, encoder))
    for stage in encoder.word_layers:
        stage.dropout = Dropout(0.25)
    stores.append(FeatureStore(folder, encoder))
    assert len({store.folder for store in stores}) == 6
    # Modes and devices do not matter.
    assert FeatureStore(folder, encoder.train()).folder == stores[-1].folder


def test_fingerprint_sees_class_settings_and_weights():
    """Shapes too: the same bytes can mean two matrices."""
    one, two, turned, named = (torch.nn.Module() for _ in range(4))
    one.weight = torch.nn.Parameter(torch.ones(2, 3))
    two.weight = torch.nn.Parameter(torch.ones(2, 3) + 1e-6)
    turned.weight = torch.nn.Parameter(torch.ones(3, 2))
    named.w = torch.nn.Parameter(torch.ones(2, 3))
    modules = [one, two, turned, named, torch.nn.ReLU(), torch.nn.Tanh()]
    modules += [torch.nn.Sequential(torch.nn.Dropout(p)) for p in (0.1, 0.2)]
    assert len({module_fingerprint(module) for module in modules}) == 8


@pytest.mark.parametrize("place", [0, 1000, -1])
def test_flipped_frames_are_deleted_and_encoded_again(
    tmp_path, encoder, wavs, place
):
    """The checksum of the frames is that of the index."""
    store = FeatureStore(tmp_path / "store", encoder)
    check(store, wavs)
    index, frames = index_and_frames(store)
    flip_byte(frames, place)
    again = FeatureStore(tmp_path / "store", encoder)
    check(again, wavs)
    assert encoder.encoded == 6
    check(FeatureStore(tmp_path / "store", encoder), wavs)
    assert encoder.encoded == 6


@pytest.mark.parametrize("size", [0, 100, 4 * 256 * 3])
def test_truncated_frames_are_encoded_again(tmp_path, encoder, wavs, size):
    """Whether cut between two frames or not."""
    store = FeatureStore(tmp_path / "store", encoder)
    check(store, wavs)
    os.truncate(index_and_frames(store)[1], size)
    check(FeatureStore(tmp_path / "store", encoder), wavs)
    assert encoder.encoded == 6


def test_frames_that_are_gone_are_encoded_again(tmp_path, encoder, wavs):
    """An index alone is not a shard, nor are frames alone."""
    for lost in (0, 1):
        folder = tmp_path / f"store{lost}"
        check(FeatureStore(folder, encoder), wavs)
        index_and_frames(FeatureStore(folder, encoder))[lost].unlink()
        check(FeatureStore(folder, encoder), wavs)
    assert encoder.encoded == 12


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "7", "{}", '{"made_from": {}}', "\xff\xfe"]
)
def test_damaged_index_is_encoded_again(tmp_path, encoder, wavs, text):
    """Empty, cut off, or JSON that is no index."""
    store = FeatureStore(tmp_path / "store", encoder)
    check(store, wavs)
    index_and_frames(store)[0].write_text(text, encoding="latin-1")
    check(FeatureStore(tmp_path / "store", encoder), wavs)
    assert encoder.encoded == 6


def test_index_cut_off_anywhere_is_encoded_again(tmp_path, encoder, wavs):
    """At every tenth of its length."""
    store = FeatureStore(tmp_path / "store", encoder)
    check(store, wavs)
    for tenth in range(10):
        index, _ = index_and_frames(store)
        os.truncate(index, index.stat().st_size * tenth // 10)
        check(FeatureStore(tmp_path / "store", encoder), wavs)
    assert encoder.encoded == 33


def damaged_items(shard):
    """Another utterance's frames under a hash."""
    first, second, *_ = shard["items"]
    items = shard["items"]
    items[first], items[second] = items[second], items[first]


def damaged_files(shard):
    """A file's hash with another digit."""
    for entry in shard["files"].values():
        entry[2] = entry[2][:-1] + ("0" if entry[2][-1] != "0" else "1")


def lost_items(shard):
    """No places."""
    del shard["items"]


def lost_files(shard):
    """No files."""
    del shard["files"]


def other_encoder(shard):
    """An index that was copied from another store."""
    shard["made_from"]["encoder"] = "0" * 64


def other_size(shard):
    """More frames than there are."""
    shard["frames"] += 1


@pytest.mark.parametrize(
    "damage",
    [
        damaged_items,
        damaged_files,
        lost_items,
        lost_files,
        other_encoder,
        other_size,
    ],
)
def test_wrong_index_is_encoded_again(tmp_path, encoder, wavs, damage):
    """Well-formed JSON, wrong content."""
    store = FeatureStore(tmp_path / "store", encoder)
    check(store, wavs)
    index, _ = index_and_frames(store)
    shard = json.loads(index.read_text())
    damage(shard)
    index.write_text(json.dumps(shard))
    check(FeatureStore(tmp_path / "store", encoder), wavs)
    assert encoder.encoded == 6


def test_undamaged_shards_survive_a_damaged_one(tmp_path, encoder, wavs):
    """Only what is lost is encoded again."""
    store = FeatureStore(tmp_path / "store", encoder)
    check(store, wavs[:1])
    damaged, _ = index_and_frames(store)
    check(store, wavs)
    flip_byte(damaged.with_suffix(".bin"), 5)
    check(FeatureStore(tmp_path / "store", encoder), wavs)
    assert encoder.encoded == 4


def test_failure_leaves_no_files(tmp_path, encoder, wavs):
    """A broken file in the last batch stops the extraction."""
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF, but no audio")
    store = FeatureStore(tmp_path / "store", encoder, batch_seconds=2.5)
    with pytest.raises(ValueError, match="broken.wav cannot be read as audio"):
        store.load([*wavs, str(broken)])
    assert encoder.encoded > 0
    assert list(store.folder.iterdir()) == []
    check(store, wavs)


@pytest.mark.parametrize("workers", [0, 2])
def test_all_that_is_no_audio_is_found_at_once(
    tmp_path, encoder, wavs, workers
):
    """Every file is looked at; nothing is stored, and no traceback shown."""
    broken = [str(tmp_path / f"{name}.wav") for name in ("nan", "inf")]
    for path, value in zip(broken, (float("nan"), float("inf"))):
        wav = torch.full((1, 4000), 0.1)
        wav[0, 3999] = value
        audio_io.save(path, wav, 16000, subtype="FLOAT")
    store = FeatureStore(
        tmp_path / "store", encoder, batch_seconds=2.5, num_workers=workers
    )
    with pytest.raises(ValueError) as caught:
        store.load([wavs[0], broken[0], *wavs[1:], broken[1]])
    message = str(caught.value)
    assert message.startswith(broken[0]) and "\n" not in message
    assert "NaN or infinite) (and 1 more): replace the file" in message
    assert not list(store.folder.glob("*.bin"))


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("damage", [float("nan"), 1e6])
def test_features_that_are_not_numbers_are_not_stored(
    tmp_path, encoder, wavs, damage
):
    """Of an encoder with damaged weights, or too large for the type."""
    encoder.register_forward_hook(
        lambda module, inputs, outputs: (damage * outputs[0], outputs[1])
    )
    store = FeatureStore(tmp_path / "store", encoder, dtype="float16")
    with pytest.raises(ValueError, match=r"gives NaN in float16 \(and 2 more"):
        store.load(wavs)
    assert not list(store.folder.glob("*.bin"))


def test_audio_that_is_read_anew_is_looked_at_too(tmp_path, trained, rows):
    """Where no features are stored."""
    features = OnTheFly(trained, "cpu")
    audio_io.save(
        rows[1]["wav"],
        torch.full((1, 99), float("nan")),
        16000,
        subtype="FLOAT",
    )
    with pytest.raises(ValueError, match=rows[1]["wav"] + " has samples that"):
        features.load(rows).batch([0, 1])


def test_missing_audio_is_named(tmp_path, encoder, wavs):
    """Before anything is encoded."""
    store = FeatureStore(tmp_path / "store", encoder)
    with pytest.raises(OSError, match="none.wav"):
        store.load([*wavs, str(tmp_path / "none.wav")])
    assert encoder.encoded == 0


def test_killed_extraction_leaves_nothing_that_is_used(tmp_path, wavs):
    """kill -9 after the first batch, while the second is encoded."""
    script = tmp_path / "killed.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys, time, torch
            from slu_kd_lobes.data.feature_store import FeatureStore
            from slu_kd_lobes.students.sincnet import SincNetEncoder

            torch.manual_seed(5)
            encoder = SincNetEncoder()
            calls = []

            def hang(module, inputs):
                calls.append(inputs)
                if len(calls) == 2:
                    print("second batch", flush=True)
                    time.sleep(600)

            encoder.register_forward_pre_hook(hang)
            store = FeatureStore(sys.argv[1], encoder, batch_seconds=2.5)
            print(store.folder, flush=True)
            store.load(sys.argv[2:])
            """
        )
    )
    folder = tmp_path / "store"
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder), *wavs],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        used = Path(process.stdout.readline().strip())
        assert process.stdout.readline() == "second batch\n"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    left = {path.suffix for path in used.iterdir()}
    assert ".part" in left and not left & {".bin", ".json"}

    torch.manual_seed(5)
    encoder = SincNetEncoder()
    calls = []
    encoder.register_forward_pre_hook(lambda *args: calls.append(args))
    store = FeatureStore(folder, encoder)
    assert store.folder == used
    check(store, wavs)
    assert len(calls) == 1
    assert {path.suffix for path in used.iterdir()} == {".bin", ".json"}


def test_killed_between_frames_and_index(tmp_path, encoder, wavs):
    """Frames without an index are overwritten or left alone."""
    store = FeatureStore(tmp_path / "store", encoder)
    check(store, wavs)
    index, frames = index_and_frames(store)
    index.unlink()
    frames.write_bytes(b"half of it")
    check(FeatureStore(tmp_path / "store", encoder), wavs)
    assert encoder.encoded == 6


def test_batches_are_zero_after_the_end_of_an_item():
    """The last item of the file has no frame after it to read."""
    stored = StoredFeatures(
        [torch.arange(1.0, 11).view(5, 2)],
        shard=torch.tensor([0, 0, 0]),
        starts=torch.tensor([0, 1, 4]),
        lengths=torch.tensor([1, 3, 1]),
    )
    features, lengths = stored.batch(torch.tensor([2, 1]))
    assert lengths.tolist() == [1, 3]
    assert features.tolist() == [
        [[9, 10], [0, 0], [0, 0]],
        [[3, 4], [5, 6], [7, 8]],
    ]


def two_shards():
    """Four utterances in two shards, counted through."""
    return StoredFeatures(
        [torch.arange(1.0, 7).view(6, 1), torch.arange(11.0, 16).view(5, 1)],
        shard=torch.tensor([1, 0, 0, 1]),
        starts=torch.tensor([0, 0, 2, 4]),
        lengths=torch.tensor([2, 2, 4, 1]),
    )


def test_a_batch_takes_from_several_shards():
    """In the order asked for, each from its own shard."""
    features, lengths = two_shards().batch([2, 3, 0])
    assert lengths.tolist() == [4, 1, 2]
    assert features.squeeze(-1).tolist() == [
        [3, 4, 5, 6],
        [15, 0, 0, 0],
        [11, 12, 0, 0],
    ]


def test_features_move_to_a_device_as_a_whole():
    """The meta device stands for any other; a CPU keeps the maps."""
    stored = two_shards()
    assert stored.on_device_if_it_fits("cpu") is stored
    moved = stored.to("meta")
    assert [part.device.type for part in moved.frames] == ["meta", "meta"]
    assert moved.batch([2, 3, 0])[0].device.type == "meta"
    assert [part.device.type for part in stored.frames] == ["cpu", "cpu"]


def resident_kb(path):
    """Memory of this process that maps a file, in kB."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total


@pytest.mark.skipif(
    not Path("/proc/self/smaps").is_file(), reason="needs Linux' smaps"
)
def test_memory_stays_flat_however_much_is_read(tmp_path, monkeypatch):
    """Pages of the map are given back; what they held is read again."""
    samples = [320_000 + 2560 * i for i in range(24)]
    wavs = [write_wav(tmp_path / f"{n}.wav", n) for n in samples]
    encoder = CountedEncoder()
    stored = FeatureStore(tmp_path / "store", encoder).load(wavs)
    (frames,) = (tmp_path / "store").glob("*/*.bin")
    size = frames.stat().st_size / 1024
    assert size > 2000
    first = [stored.batch([i])[0].clone() for i in range(24)]
    assert resident_kb(frames) > 0.9 * size
    monkeypatch.setattr("slu_kd_lobes.data.feature_store.RESIDENT_BYTES", 2**18)
    again = [stored.batch([i])[0].clone() for i in range(24)]
    assert resident_kb(frames) < 0.6 * size
    assert all(torch.equal(a, b) for a, b in zip(first, again))


# What the student hears


@pytest.fixture
def rows(wavs):
    """The three files as manifests have them."""
    durations = (0.5, 12345 / 16000, 3001 / 16000)
    return [
        {"wav": wav, "duration": duration}
        for wav, duration in zip(wavs, durations)
    ]


@pytest.fixture
def trained(encoder):
    """An encoder that hears something."""
    encoder.untrained = False
    return encoder


def heard(features, rows, indices, training=False):
    """What a student is given of some utterances."""
    with torch.no_grad():
        inputs, lengths = features.load(rows).batch(indices)
        return features(inputs, lengths, training=training)


def test_features_stored_or_made_anew_are_the_same(tmp_path, trained, rows):
    """The recipe does not know which it has."""
    stored = Stored(trained, "cpu", tmp_path / "store")
    made = OnTheFly(trained, "cpu")
    for features in (stored, made):
        features.build(rows)
        features.start_epoch(2)
        assert not features.trains
    for training in (False, True):
        one = heard(stored, rows, [2, 0, 1], training)
        two = heard(made, rows, [2, 0, 1], training)
        torch.testing.assert_close(one[0], two[0], rtol=0, atol=1e-5)
        assert one[1].tolist() == two[1].tolist() == [2, 4, 5]


def test_only_what_is_stored_is_encoded_once(tmp_path, trained, rows):
    """The other is encoded when it is heard, and nothing ahead."""
    stored = Stored(trained, "cpu", tmp_path / "store")
    stored.build(rows)
    assert trained.encoded == 3
    for _ in range(3):
        heard(stored, rows, [0, 1, 2])
    assert trained.encoded == 3
    made = OnTheFly(trained, "cpu")
    made.build(rows)
    assert trained.encoded == 3
    for _ in range(3):
        heard(made, rows, [0, 1, 2])
    assert trained.encoded == 12


def test_lengths_make_batches_of_similar_ones(tmp_path, trained, rows):
    """In frames or milliseconds: the order is the same."""
    stored = Stored(trained, "cpu", tmp_path / "store").load(rows)
    made = OnTheFly(trained, "cpu").load(rows)
    assert torch.as_tensor(stored.lengths).tolist() == [4, 5, 2]
    assert made.lengths == [500, 772, 188]


def test_dropout_of_frozen_layers_is_on_in_training_alone(trained, rows):
    """As the published code has it; no layer trains."""
    made = OnTheFly(trained, "cpu", dropout=True)
    expected, _ = heard(OnTheFly(trained, "cpu"), rows, [1], training=True)
    assert torch.equal(heard(made, rows, [1])[0], expected)
    noisy = [heard(made, rows, [1], training=True)[0] for _ in range(2)]
    assert not torch.equal(noisy[0], noisy[1])
    assert not torch.equal(noisy[0], expected)
    assert torch.equal(heard(made, rows, [1])[0], expected)
    assert not any(p.requires_grad for p in trained.parameters())


def test_an_encoder_that_trains_gets_gradients(trained, rows):
    """In the layers that its epoch unfreezes, and dropout is on."""
    made = OnTheFly(trained, "cpu", unfreezing=GradualUnfreezing("word"))
    assert made.trains
    made.start_epoch(2)
    inputs, lengths = made.load(rows).batch([0, 1])
    made(inputs, lengths, training=True)[0].sum().backward()
    assert trained.training
    names = {n for n, p in trained.named_parameters() if p.grad is not None}
    assert names and all(name.startswith("word_layers.1") for name in names)


@pytest.mark.parametrize("kind", [Stored, OnTheFly])
def test_an_encoder_that_hears_nothing_is_refused(tmp_path, encoder, kind):
    """Neither pre-trained nor trained; or made for another rate."""
    options = {"folder": tmp_path / "store"} if kind is Stored else {}
    with pytest.raises(ValueError, match="encoder_source is null"):
        kind(encoder, "cpu", **options)
    encoder.untrained = False
    with pytest.raises(ValueError, match="hears 16000 Hz.*not to 8000"):
        kind(encoder, "cpu", sample_rate=8000, **options)
    kind(encoder, "cpu", **options)


def test_an_encoder_may_learn_to_hear(encoder):
    """One without training that trains with the student."""
    made = OnTheFly(encoder, "cpu", unfreezing=GradualUnfreezing("all"))
    assert made.trains and encoder.untrained


@pytest.mark.parametrize(
    "options", [{"dropout": True}, {"unfreezing": GradualUnfreezing("word")}]
)
def test_an_encoder_that_stays_as_it_is_is_not_changed(
    transformer_folders, options
):
    """It has no dropout and no layers of ours."""
    encoder = TransformerEncoder(str(transformer_folders / "wav2vec2"))
    with pytest.raises(ValueError, match="TransformerEncoder stays as it is"):
        OnTheFly(encoder, "cpu", **options)
    OnTheFly(encoder, "cpu")


def test_an_encoder_that_unfreezes_needs_one_process(tmp_path, trained):
    """Nothing would bring the encoders of the processes together."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1
    )
    try:
        unfreezing = GradualUnfreezing("word")
        with pytest.raises(ValueError, match="cannot train in several proc"):
            OnTheFly(trained, "cpu", unfreezing=unfreezing)
        OnTheFly(trained, "cpu", dropout=True)
    finally:
        torch.distributed.destroy_process_group()
    OnTheFly(trained, "cpu", unfreezing=unfreezing)
