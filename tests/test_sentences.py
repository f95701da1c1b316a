"""Typed sentences: how they are read, and the search among them."""

import itertools

import numpy as np
import pytest

from slu_kd_lobes.data.sentences import (
    add_list,
    read_list,
    read_templates,
    spoken,
)
from slu_kd_lobes.inference.sentence_graph import NUMBERS, Graph, SentenceSearch
from slu_kd_lobes.losses.asr import LETTERS


def log_probs(frames, seed, sharpness=2.0):
    """Of a head that knows nothing."""
    draw = np.random.default_rng(seed).normal(size=(frames, len(LETTERS) + 1))
    draw *= sharpness
    draw -= np.log(np.exp(draw).sum(1, keepdims=True))
    return draw.astype(np.float32)


def heard(text, frames=None, sure=0.9):
    """Of a head that writes a text, a blank behind each letter."""
    path = [number for x in text for number in (NUMBERS[x], 0)]
    path += [0] * ((frames or len(path)) - len(path))
    share = (1 - sure) / len(LETTERS)
    found = np.full((len(path), len(LETTERS) + 1), share)
    found[range(len(path)), path] = sure
    return np.log(found).astype(np.float32)


def best_path(likely, text):
    """The score of the best path of CTC that writes a text, in a loop."""
    likely = likely.astype(np.float64)
    places = [0]
    for letter in text:
        places += [NUMBERS[letter], 0]
    scores = np.full(len(places), -np.inf)
    scores[:2] = likely[0, places[:2]]
    for frame in likely[1:]:
        ways = [scores]
        ways.append(np.concatenate([[-np.inf], scores[:-1]]))
        skip = np.concatenate([[-np.inf, -np.inf], scores[:-2]])
        for i, number in enumerate(places):
            if i < 2 or number == 0 or number == places[i - 2]:
                skip[i] = -np.inf
        scores = np.max([*ways, skip], 0) + frame[places]
    return scores[-2:].max()


def search_of(texts, **options):
    graph = Graph()
    for number, text in enumerate(texts):
        end = graph.listed(text)
        graph.accept(graph.mark(end, {"number": number}))
    return SentenceSearch(graph, **options)


TEXTS = ["on", "off", "onn", "o", "lights off", "lights on", "a b", "bb b"]
EXACT = {"beam": 1e6, "max_active": 10**6}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("frames", [3, 12, 40])
def test_the_search_is_the_best_of_all_sentences(frames, seed):
    """As scored one by one; those that do not fit are out of the question."""
    likely = log_probs(frames, seed)
    scores = [best_path(likely, text) for text in TEXTS]
    found = search_of(TEXTS, **EXACT)(likely)
    assert found.text == TEXTS[int(np.argmax(scores))]
    assert found.slots == {"number": int(np.argmax(scores))}
    assert found.score == pytest.approx(max(scores), abs=1e-6)
    free = likely.astype(np.float64).max(1).sum()
    assert found.ratio == pytest.approx(max(scores) - free, abs=1e-6)


def test_the_ratio_is_never_above_zero():
    search = search_of(TEXTS)
    for text in TEXTS:
        assert search(heard(text, 30)).ratio == 0
    for seed in range(20):
        found = search(log_probs(30, seed, 0.1))
        assert found is None or found.ratio <= 0


def test_a_new_sentence_changes_no_other_score():
    likely = heard("lights on", 30, 0.5)
    first = search_of(["lights on"], **EXACT)(likely)
    more = search_of(["lights on", "lights off", "light"], **EXACT)(likely)
    assert more.text == first.text
    assert more.score == first.score and more.ratio == first.ratio


def test_the_order_of_sentences_does_not_matter():
    likely = log_probs(40, 3)
    answers = {
        search_of(order, **EXACT)(likely).text
        for order in itertools.islice(itertools.permutations(TEXTS), 0, 200, 40)
    }
    assert len(answers) == 1


def test_columns_and_an_end_of_ones_own():
    """Letters in another order, an unknown symbol, and a mark of the end."""
    columns = {letter: 2 + i for i, letter in enumerate(sorted(LETTERS))}
    order = [0, *(columns[letter] for letter in LETTERS)]
    graph = Graph()
    graph.accept(graph.listed("lights on"))
    likely = np.full((30, len(LETTERS) + 3), -9.0, dtype=np.float32)
    likely[:, order] = heard("lights on", 30)
    with_end = SentenceSearch(graph, columns, end=1)(likely)
    without = SentenceSearch(graph, columns)(likely)
    assert with_end.text == without.text == "lights on"
    # The end is nowhere: it takes the place of a blank.
    assert without.ratio == 0
    assert with_end.ratio == pytest.approx(-9 - np.log(0.9), abs=1e-5)
    likely[-1, 1] = 0
    assert SentenceSearch(graph, columns, end=1)(likely).ratio == 0


def test_nothing_fits_into_too_few_frames():
    search = search_of(["lights off"])
    assert search(log_probs(4, 0)) is None
    assert search(log_probs(0, 0)) is None


TEMPLATES = """\
language: en
intents:
  Light:
    data:
      - sentences:
          - "(turn|switch) on [the] {room} light[s]"
          - "[<please>] {level} percent in the {room}"
        slots: {action: activate}
  Coffee:
    data:
      - sentences: ["(a {size};{drink}) now"]
expansion_rules:
  please: "(please|be so kind)"
lists:
  room:
    values: [kitchen, {in: "bed[ ]room", out: bedroom}]
  level:
    range: {from: 10, to: 30, step: 10}
  size:
    values: [small, large]
  drink:
    values: [tea]
"""


@pytest.fixture
def templates(tmp_path):
    path = tmp_path / "house.yaml"
    path.write_text(TEMPLATES)
    graph = Graph()
    return read_templates(path).add_to(graph), SentenceSearch(graph)


@pytest.mark.parametrize(
    "text, slots",
    [
        ("turn on kitchen light", {"room": "kitchen", "action": "activate"}),
        ("switch on the bed room lights", {"room": "bedroom"}),
        ("switch on the bedroom lights", {"room": "bedroom"}),
        ("twenty percent in the kitchen", {"level": "20"}),
        ("be so kind ten percent in the bedroom", {"level": "10"}),
        ("a large tea now", {"size": "large", "drink": "tea"}),
        ("tea a small now", {"size": "small", "intent": "Coffee"}),
    ],
)
def test_a_sentence_of_a_template_is_found(templates, text, slots):
    count, search = templates
    found = search(heard(text))
    assert found.text == text and found.ratio == 0
    assert slots.items() <= found.slots.items()


def test_sentences_of_templates_are_counted(templates):
    """By hand: 2 x 2 x 3 x 2; 3 x 3 x 3; 2 orders of 2 x 1."""
    assert templates[0] == 24 + 27 + 4


def test_a_template_costs_what_is_written(tmp_path):
    """A hundred thousand sentences are no more states than their words."""
    words = [f"{a}{b}o" for a, b in itertools.product("bdfgklmnps", repeat=2)]
    lists = {f"x{i}": {"values": words[i::10]} for i in range(5)}
    body = "language: en\nintents:\n  A:\n    data:\n"
    body += "      - sentences: ['{x0} {x1} {x2} {x3} {x4}']\n"
    path = tmp_path / "a.yaml"
    path.write_text(f"{body}lists: {lists}\n")
    graph = Graph()
    assert read_templates(path).add_to(graph) == 10**5
    assert graph.fst.num_states < 400
    text = " ".join(lists[f"x{i}"]["values"][i] for i in range(5))
    assert SentenceSearch(graph)(heard(text)).text == text


@pytest.mark.parametrize(
    "old, new, told",
    [
        ("{room} light[s]", "{place} light[s]", "there is no list 'place'"),
        ("[<please>]", "[<kindly>]", "there is no rule 'kindly'"),
        ("(turn|switch)", "(turn|switch", "Light, '(turn|switch on"),
        ("values: [tea]", "wildcard: true", "what is free cannot be listed"),
        ("out: bedroom", "uot: bedroom", "does not say what it means"),
        ("percent in", "% 灯", "'灯' of"),
        ("language: en", "language: [", "is no file of sentence templates"),
        ("intents:", "intent:", "is no file of sentence templates"),
    ],
)
def test_a_wrong_template_is_named(tmp_path, old, new, told):
    path = tmp_path / "house.yaml"
    path.write_text(TEMPLATES.replace(old, new))
    with pytest.raises(ValueError) as error:
        read_templates(path).add_to(Graph())
    assert told in str(error.value) and str(path) in str(error.value)


def test_a_list_is_read_and_found(tmp_path):
    path = tmp_path / "commands.csv"
    path.write_text(
        "transcription,action,room\nLights ON!,on,none\nTurn it to 7,set,hall\n"
    )
    graph = Graph()
    add_list(graph, read_list(path))
    found = SentenceSearch(graph)(heard("turn it to seven"))
    assert found.slots == {"action": "set", "room": "hall"}


@pytest.mark.parametrize(
    "rows, told",
    [
        ("on,on\non,on\n", "row 3: 'on' is there already (FILE, row 2)"),
        ("on,on\nOn!,off\n", "row 3: 'on' means {'action': 'off'} here and"),
        ("on,on\n...,off\n", "row 3: there is no sentence"),
        ("日本,on\n", "row 2: '日' of '日本' cannot be pronounced"),
        ("on,\n", "row 2: the slot 'action' is empty"),
        ("", "has no sentences: give it a column 'transcription'"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, rows, told):
    path = tmp_path / "commands.csv"
    path.write_text(f"transcription,action\n{rows}", encoding="utf-8")
    with pytest.raises(ValueError) as error:
        read_list(path)
    assert told.replace("FILE", str(path)) in str(error.value)


def test_a_list_without_slots_is_refused(tmp_path):
    path = tmp_path / "commands.csv"
    path.write_text("transcription\non\n")
    with pytest.raises(ValueError, match="give it a column for each slot"):
        read_list(path)


@pytest.mark.parametrize(
    "text, said",
    [
        ("21st", "twenty one st"),
        ("Don\u2019t stop", "don't stop"),
        ("naïve  Café", "naive cafe"),
        ("1000000", "one million"),
    ],
)
def test_what_is_said(text, said):
    assert spoken(text) == said
