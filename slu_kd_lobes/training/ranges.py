"""What the keys of a configuration, and the options of a run, can hold."""

WORDS = {int: "a whole number", float: "a number", str: "text of a length"}
MAPPING = "keys and values such as {name: value}, or null"

_COUNT = (int, 1, 10**6)
_SHARE = (float, 0, 1)

#: What a key of this name can hold, wherever it stands: numbers (whole ones,
#: or any) between two bounds, text between two lengths, or one of some words.
RANGES = {
    **dict.fromkeys(("seed", "subset_seed"), (int, 0, 2**32 - 1)),
    **dict.fromkeys(
        "number_of_epochs valid_every batch_size recogniser_batch_size "
        "test_batch_size sample_rate num_phones num_words debug_batches "
        "grad_accumulation_factor n_mels beam_size average".split(),
        _COUNT,
    ),
    **dict.fromkeys(
        "encoder_pool num_workers utterances_in_memory".split(),
        (int, 0, 10**6),
    ),
    # None: or null, which stands for no bound.
    **dict.fromkeys(("hours", "valid_hours"), (float, 1e-6, 10**6, None)),
    "batch_frames": (int, 1, 10**9, None),
    "hidden_size": (int, 1, 10**4),
    "max_tokens": (int, 3, 10**6),  # two are the marks of begin and end
    **dict.fromkeys(("lr", "final_lr"), (float, 1e-12, 1000)),
    "lr_decay": (float, 1e-6, 10),
    "max_grad_norm": (float, -(10**9), 10**9),
    **dict.fromkeys(("label_smoothing", "warm_up", "hold"), _SHARE),
    "longest": (float, 0.01, 10**6),
    **dict.fromkeys(("dropout", "input_dropout"), (float, 0, 0.99)),
    "kd_temperature": (float, 0.001, 1000),
    **dict.fromkeys(("kd_weight", "matching_weight"), (float, 0, 10**6)),
    "max_train_error": (float, 0, 100),
    **dict.fromkeys(
        "config data_folder output_folder save_folder manifest_folder "
        "feature_folder teacher_folder transcript_folder text_encoder "
        "train_log".split(),
        (str, 1, 4096),
    ),
    "test_epoch": ("last", "best"),
    "feature_dtype": ("float32", "float16"),
    **dict.fromkeys(("slot_values", "fixed_weights"), MAPPING),
}


def is_number(key):
    """Whether a key of this name holds a number, even where it is null now.

    Arguments
    ---------
    key : str

    Returns
    -------
    bool

    Example
    -------
    >>> is_number("hours"), is_number("data_folder")
    (True, False)
    """
    return RANGES.get(key, (str,))[0] in (int, float)


def check_range(key, value, source):
    """Refuses what a key cannot hold; see `RANGES`.

    Arguments
    ---------
    key : str
        Perhaps with those around it, as in ``fine_tuning.lr``.
    value : object
    source : str
        Where it stands, for the message.

    Raises
    ------
    ValueError
        If it is out of range.

    Example
    -------
    >>> check_range("fine_tuning.lr", 0.001, "a.yaml")
    >>> check_range("batch_size", 2.5, "command line")
    Traceback (most recent call last):
    ...
    ValueError: command line: 'batch_size' must be a whole number from 1 to \
1000000; it is 2.5
    """
    allowed = RANGES.get(key.rpartition(".")[2])
    if allowed is None:
        return
    if allowed == MAPPING:
        right, wanted = value is None, MAPPING
    elif isinstance(allowed[0], str):
        right, wanted = value in allowed, " or ".join(allowed)
    else:
        kind, low, high, *null = allowed
        kinds = (int, float) if kind is float else kind
        right = isinstance(value, kinds) and not isinstance(value, bool)
        size = len(value) if isinstance(value, str) else value
        right = value in null or (right and low <= size <= high)
        wanted = f"{WORDS[kind]} from {low} to {high}{', or null' * len(null)}"
    if not right:
        value = "null" if value is None else repr(value)
        raise ValueError(f"{source}: '{key}' must be {wanted}; it is {value}")
