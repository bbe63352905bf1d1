"""The made-up corpus: the same bytes for ever, and labels that agree with what the text says."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from itertools import islice

import pytest

from saebench.data.storyworld import VARIABLES, Document, entropy_estimate, generate, write
from saebench.data.storyworld import morphology as m
from saebench.data.storyworld.document import Document as Doc
from saebench.data.storyworld.lexicon import TEXTS
from saebench.data.storyworld.rng import Rng, Weighted
from saebench.data.storyworld.template import PHRASES, RULES, TENSES

GOLDEN = {
    "train": "9a747fc15c40807568c2868c25cd160693c550f8eb7d59f06c348e41639a6fa3",
    "eval": "7a523ea23a55519d421cad17ce8ee1f09c7fa63aaa27d8e89f993a908b6e9fd4",
}
PRONOUNS = {"she": 0, "her": 0, "he": 1, "him": 1, "his": 1}


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return [*islice(generate(0, "train"), 300), *islice(generate(0, "eval"), 100)]


@pytest.mark.parametrize("part", ["train", "eval"])
def test_the_first_documents_never_change(part):
    text = "\0".join(d.text for d in islice(generate(0, part), 200))
    assert hashlib.sha256(text.encode()).hexdigest() == GOLDEN[part]


def test_same_seed_same_bytes_and_any_document_alone():
    first = [d.text for d in islice(generate(7, "train"), 20)]
    assert first == [d.text for d in islice(generate(7, "train"), 20)]
    assert write(7, "train", 13).text == first[13]
    assert first != [d.text for d in islice(generate(8, "train"), 20)]
    assert first != [d.text for d in islice(generate(7, "eval"), 20)]


def test_pieces_tile_the_text_and_every_piece_has_every_label(documents):
    for d in documents[:60]:
        assert d.text == "".join(d.pieces)
        spans = d.spans
        assert [s for s, _, _ in spans] == [0, *(e for _, e, _ in spans[:-1])] and spans[-1][1] == len(d.text)
        assert all(d.text[a:b] == piece for (a, b, _), piece in zip(spans, d.pieces, strict=True))
        assert all(len(v) == len(VARIABLES) for v in d.vectors)


def test_columns_agree_with_vectors(documents):
    for d in documents[:12]:
        for column, (name, variable) in enumerate(VARIABLES.items()):
            labels = d.labels(name)
            assert labels == [d.vectors[i][column] for i in d.label_index], name
            assert all(0 <= label < len(variable.values) for label in labels), name


def test_there_are_many_variables_and_each_takes_several_values(documents):
    assert len(VARIABLES) >= 60
    for name in VARIABLES:
        seen: Counter[int] = Counter()
        for d in documents:
            seen.update(d.labels(name))
        assert len(seen) >= 2, name
        assert all(VARIABLES[name].description for name in VARIABLES)


def test_documents_are_of_a_size(documents):
    sizes = sorted(len(d.text.split()) for d in documents if d.register != "noise")
    assert sizes[len(sizes) // 50] >= 70 and sizes[-1] <= 700 and 200 < sizes[len(sizes) // 2] < 400
    assert len({d.register for d in documents}) == 12


def test_text_is_well_formed(documents):
    for d in documents:
        if d.register in ("noise", "code", "ledger", "lingo"):
            continue
        assert not re.search(r" [,.;:!?]|  |\( | \)|\bI is\b|\byou is\b|\ba [aeio]\w|\ban [bcdfgjklmnpqrstvwxz]\w", d.text), (
            d.text
        )
        assert not re.search(r"[.!?] [a-z]", re.sub(r"\d\. ", "", d.text)), d.text


def test_every_rule_can_be_written_in_every_tense():
    for rule in [*RULES.values(), *(phrase.rule for phrase in PHRASES)]:
        for tense in TENSES:
            assert rule.steps(tense)


def test_no_form_is_empty():
    assert all(text for text in TEXTS)


def test_morphology():
    plurals = {"knife": "knives", "box": "boxes", "cherry": "cherries", "key": "keys", "child": "children", "sheep": "sheep"}
    assert {word: m.plural(word) for word in plurals} == plurals
    pasts = {
        "go": "went",
        "stop": "stopped",
        "carry": "carried",
        "bake": "baked",
        "play": "played",
        "travel": "travelled",
        "mix": "mixed",
    }
    assert {word: m.past(word) for word in pasts} == pasts
    assert [m.third(x) for x in ("go", "watch", "carry", "play", "have", "be")] == [
        "goes",
        "watches",
        "carries",
        "plays",
        "has",
        "is",
    ]
    assert [m.gerund(x) for x in ("run", "make", "lie", "see", "sit")] == ["running", "making", "lying", "seeing", "sitting"]
    assert [m.participle(x) for x in ("write", "steal", "paint")] == ["written", "stolen", "painted"]
    assert [m.article(x) for x in ("apple", "hour", "unicorn", "umbrella", "8", "mill")] == ["an", "an", "a", "an", "an", "a"]
    compared = {"big": ("bigger", "biggest"), "happy": ("happier", "happiest"), "large": ("larger", "largest"), "careful": None}
    assert {word: m.compared(word) for word in compared} == compared


def _names(d: Document) -> dict[int, str]:
    """Return the name of every person the text names."""
    rows = zip(d.labels("referent"), d.kinds("noun_class"), d.pieces, strict=True)
    return {who: piece.strip() for who, kind, piece in rows if who and kind == "first_name"}


def test_a_pronoun_means_who_of_that_gender_was_mentioned_last(documents):
    checked = 0
    for d in documents:
        last: list[int] = [0, 0]
        genders, kinds, person = d.kinds("referent_gender"), d.kinds("referent_kind"), d.kinds("person")
        before = ["", *d.pieces]
        rows = zip(d.pieces, before, d.kinds("noun_class"), d.labels("referent"), genders, kinds, person, strict=False)
        for piece, the, noun, who, gender, kind, which in rows:
            word = piece.strip().lower()
            if which == "none" and noun != "first_name" and not (noun == "occupation" and the.strip().lower() == "the"):
                continue
            if word in PRONOUNS and which == "third":
                assert who, (piece, d.text)
                assert last[PRONOUNS[word]] == who, (piece, d.text)
                assert gender == ("feminine", "masculine")[PRONOUNS[word]]
                checked += 1
            if who and kind == "person" and which in ("none", "third"):
                last[0 if gender == "feminine" else 1] = who
    assert checked > 1000


def test_it_means_a_thing_that_was_mentioned(documents):
    for d in documents:
        seen: set[int] = set()
        for piece, who in zip(d.pieces, d.labels("referent"), strict=True):
            if who and piece.strip().lower() in ("it", "its"):
                assert who in seen
            seen.add(who)


def test_owners_are_as_the_text_says(documents):
    said = re.compile(r"[tT]he owner of the ([a-z ]+) was ([A-Z][a-z]+)\.|the ([a-z ]+) is that of ([A-Z][a-z]+)\.")
    checked = 0
    for d in documents:
        names, ends = _names(d), {end: i for i, (_, end, _) in enumerate(d.spans)}
        owner = d.labels("owner")
        for found in said.finditer(d.text):
            if found[1] is not None and found[2] in names.values():
                at = ends[found.end(1)]
                assert names[owner[at]] == found[2], found[0]
                checked += 1
    assert checked > 20


def test_things_change_hands(documents):
    changes = 0
    for d in documents:
        held: dict[int, int] = {}
        for who, owner, kind in zip(d.labels("referent"), d.labels("owner"), d.kinds("referent_kind"), strict=True):
            if kind == "thing" and owner:
                changes += held.get(who, owner) != owner
                held[who] = owner
    assert changes > 100


def test_traits_and_work_belong_to_the_person(documents):
    for d in documents[:100]:
        for name in ("referent_occupation", "referent_home", "referent_age"):
            of: dict[int, int] = {}
            for who, value in zip(d.labels("referent"), d.labels(name), strict=True):
                assert of.setdefault(who, value) == value


def test_the_results_in_code_are_true():
    shown = 0
    for index in range(40):
        values: dict[str, int] = {}
        condition = True
        for line in write(3, "train", index, "code").text.split("\n"):
            inner = line.startswith("  ")
            if found := re.fullmatch(r"let (\w+) = (\d+)", line):
                values[found[1]] = int(found[2])
            elif found := re.fullmatch(r"if (\w+) < (\w+):", line):
                condition = values[found[1]] < values[found[2]]
            elif (found := re.fullmatch(r" *(\w+) ([+-])= (\d+)", line)) and (condition or not inner):
                values[found[1]] += int(found[3]) if found[2] == "+" else -int(found[3])
            elif found := re.fullmatch(r"(\w+) = (\w+) \+ (\w+)", line):
                values[found[1]] = values[found[2]] + values[found[3]]
            elif found := re.fullmatch(r"show\((\w+)\) # (\d+)", line):
                assert values[found[1]] == int(found[2])
                shown += 1
    assert shown > 50


def test_sums_are_true(documents):
    for d in documents:
        for one, two, three in re.findall(r"\b(\d+) and (\d+) make (\d+)\.", d.text):
            assert int(one) + int(two) == int(three)


def _grams(text: str, n: int = 8) -> list[str]:
    words = text.split()
    return [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]


def test_training_and_evaluation_share_few_sequences(documents):
    """Measured with windows of 8 words: see the numbers in ``generate``; stock phrases may recur."""
    known = {gram for d in documents[:300] for gram in _grams(d.text)}
    told = {gram for d in documents[:300] for gram in _grams(d.text, 16)}
    held = [gram for d in documents[300:] for gram in _grams(d.text)]
    long = [gram for d in documents[300:] for gram in _grams(d.text, 16)]
    assert sum(gram in known for gram in held) / len(held) < 0.04
    assert sum(gram in told for gram in long) / len(long) < 0.002


def _combinations(d: Document) -> set[tuple[str, str, str]]:
    out = set()
    named = _names(d)
    rows = zip(
        d.labels("referent"), d.kinds("referent_kind"), d.kinds("referent_occupation"), d.kinds("referent_home"), strict=True
    )
    for who, kind, work, home in rows:
        if kind == "person" and who in named and work != "none":
            out |= {("work", named[who], work), ("home", named[who], home)}
    return out


def test_combinations_belong_to_one_part(documents):
    train = set().union(*(_combinations(d) for d in documents[:300]))
    held = set().union(*(_combinations(d) for d in documents[300:]))
    assert len(held) > 100 and not train & held


def test_nats_are_the_price_of_the_choices():
    rng = Rng(1)
    rng.below(6)
    rng.pick("abc")
    assert rng.nats == pytest.approx(math.log(18))
    before = rng.nats
    yes = rng.chance(25)
    assert rng.nats - before == pytest.approx(-math.log(0.25 if yes else 0.75))
    before = rng.nats
    drawn = rng.weighted(Weighted([("a", 3), ("b", 1)]))
    assert rng.nats - before == pytest.approx(-math.log(0.75 if drawn == "a" else 0.25))
    draws = Counter(rng.below(4) for _ in range(8000))
    assert all(1800 < draws[i] < 2200 for i in range(4))


def test_noise_costs_six_bits_a_letter():
    d = write(0, "train", 0, "noise")
    letters = len(d.text.replace("\n", ""))
    assert letters * math.log(64) <= d.nats <= letters * math.log(64) + 10


def test_the_entropy_bound_adds_up():
    found = entropy_estimate(0, 25)
    assert found["nats"] == pytest.approx(sum(d.nats for d in islice(generate(0, "train"), 25)))
    assert found["nats_per_character"] == pytest.approx(found["nats"] / found["characters"])
    assert 0.1 < found["nats_per_character"] < 1
    assert isinstance(write(0, "train", 0), Doc)
