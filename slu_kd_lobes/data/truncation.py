"""Whether an audio file is all there, as far as its format can tell.

libsndfile reads what there is of a file that was copied in part, and says
nothing. Yet most formats state their length, or mark their end.
"""

import re

#: What libsndfile notes of a chunk that states more bytes than there are: in
#: wav, AIFF, AU, Wave64, RF64.
_MISSING = re.compile(
    r"^ *(?:data|SSND|Data Size|riff|Riff size) *: (\d+) \(should be (\d+)\)$",
    re.MULTILINE,
)
#: What writes to a pipe cannot know the length, and states this or more.
_UNKNOWN = 0x7FFF0000
#: Some programs count the header of the file in, too.
_HEADER = 64

#: Kilobits per second of MP3 frames: of MPEG-2 and 2.5, of MPEG-1.
_MP3_RATES = (
    (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
)


def is_cut_short(file, source):
    """Whether the end of an audio file is missing.

    Not told: of headerless audio, of an MP3 file without a count of its
    frames that ends between two of them. FLAC fails when it is read.

    Arguments
    ---------
    file : soundfile.SoundFile
        Open, nothing read.
    source : str, Path or file object
        What it was opened from.

    Returns
    -------
    bool

    Example
    -------
    >>> import numpy, soundfile
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> soundfile.write(path, numpy.zeros(8000), 8000)
    >>> is_cut_short(soundfile.SoundFile(path), path)
    False
    >>> _ = path.write_bytes(path.read_bytes()[:5000])
    >>> is_cut_short(soundfile.SoundFile(path), path)
    True
    """
    if file.format == "OGG":
        return not _has_last_page(_bytes(source, -(2**16), 2**16))
    if file.format == "MP3":
        return not states_length(source) and mp3_samples(source)[1]
    if file.format == "NIST":
        stated = re.search(rb"sample_count -i (\d+)", _bytes(source, 0, 1024))
        return stated is not None and file.frames < int(stated[1])
    if missing := _MISSING.search(file.extra_info):
        stated, there = map(int, missing.groups())
        return there + _HEADER < stated < _UNKNOWN
    return file.format == "VOC" and "truncated" in file.extra_info


def states_length(source):
    """Whether the first frame of an MP3 file tells how many there are.

    Arguments
    ---------
    source : str, Path or file object

    Returns
    -------
    bool
    """
    first = _bytes(source, _first_frame(source), 256)
    return b"Xing" in first or b"Info" in first


def _bytes(source, start, size):
    """Bytes of a file from a place on; a negative one is from its end."""
    if not hasattr(source, "read"):
        with open(source, "rb") as file:
            return _bytes(file, start, size)
    place = source.tell()  # libsndfile goes on from there
    end = source.seek(0, 2)
    source.seek(max(0, end + start) if start < 0 else start)
    content = source.read(size)
    source.seek(place)
    return content


def _has_last_page(tail):
    """Whether an Ogg file ends with a whole page that is marked as the last."""
    page = tail[max(0, tail.rfind(b"OggS")) :]  # it fits in the tail
    body = 27 + page[26] if len(page) > 26 else 2**16
    return len(page) >= body + sum(page[27:body]) and bool(page[5] & 4)


def _first_frame(source):
    """Where the tag in front of MP3 ends; its size has 7 bits a byte."""
    head = _bytes(source, 0, 10)
    size = sum(b << 7 * (3 - i) for i, b in enumerate(head[6:10]))
    return 10 + size if head[:3] == b"ID3" else 0


def mp3_samples(source):
    """Counts the samples of an MP3 file by the headers of its frames.

    Arguments
    ---------
    source : str, Path or file object

    Returns
    -------
    samples : int
    cut : bool
        Whether the last frame has fewer bytes than it states.
    """
    content = _bytes(source, _first_frame(source), -1)
    place, samples = 0, 0
    while place + 4 <= len(content):
        sync, kind, rate = content[place : place + 3]
        version, layer = kind >> 3 & 3, kind >> 1 & 3
        kbits, hertz = rate >> 4, rate >> 2 & 3
        if (
            (sync, kind >> 5, layer) != (255, 7, 1)
            or version == 1
            or kbits in (0, 15)
            or hertz == 3
        ):
            break  # a tag, or what only a decoder understands
        hertz = (44100, 48000, 32000)[hertz] >> (2, 0, 1, 0)[version]
        kbits = _MP3_RATES[version == 3][kbits - 1]
        length = 1152 if version == 3 else 576
        place += length * 125 * kbits // hertz + (rate >> 1 & 1)
        samples += length
    return samples, place > len(content)
