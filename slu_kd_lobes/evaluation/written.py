"""How much of what a recogniser writes is wrong: words, and characters."""

from pathlib import Path

from speechbrain.utils.metric_stats import ErrorRateStats

from slu_kd_lobes.data.transcripts import normalise_transcript
from slu_kd_lobes.utils.files import whole


class WrittenErrors:
    """Errors of words and of characters, by SpeechBrain's statistics.

    Example
    -------
    >>> errors = WrittenErrors()
    >>> errors.append(["a"], ["turn on light"], ["Turn on the light."])
    >>> {name: round(value, 2) for name, value in errors.rates().items()}
    {'wer': 25.0, 'cer': 23.53}
    """

    def __init__(self):
        self.words, self.characters = ErrorRateStats(), ErrorRateStats()

    def append(self, ids, written, said):
        """Counts utterances.

        Arguments
        ---------
        ids : list of str
            Their names.
        written : list of str
            Normalised.
        said : list of str
            In any writing.
        """
        said = [normalise_transcript(text) for text in said]
        both = ((self.words, str.split), (self.characters, list))
        for stats, split in both:
            stats.append(ids, list(map(split, written)), list(map(split, said)))

    def rates(self):
        """Returns ``wer`` and ``cer``, in percent."""
        return {
            "wer": self.words.summarize("error_rate"),
            "cer": self.characters.summarize("error_rate"),
        }

    def write(self, path):
        """Writes each utterance beside what was said, word by word.

        Arguments
        ---------
        path : str or Path
        """
        with whole(Path(path)) as part, open(part, "w", encoding="utf-8") as f:
            self.words.write_stats(f)
