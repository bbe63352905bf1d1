"""The named variables that every piece of text is labelled with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, no_type_check

from saebench.data.storyworld import vocab_people as people
from saebench.data.storyworld import vocab_things as things
from saebench.data.storyworld import vocab_words as words

Layer = Literal["word", "referent", "context", "place"]
MAX_ENTITIES = 40
"""Most people, animals and things that one document follows."""
_ENTITIES = " ".join(f"e{i}" for i in range(1, MAX_ENTITIES + 1))
_PLACES = " ".join(entry.split()[0] for entry in things.PLACES.replace("\n", "|").split("|") if entry.strip())
_TOWNS = " ".join(head + tail for head in things.TOWN_HEADS for tail in things.TOWN_TAILS)


@dataclass(frozen=True)
class Variable:
    """One thing that is known of every piece."""

    name: str
    description: str
    layer: Layer
    """Where the value comes from: the word's form, what it refers to, the clause it stands in, or its position."""
    values: list[str] = field(repr=False)
    """The kinds of values; a label is an index into this list, and 0 says that the variable does not apply."""


_WORD: list[tuple[str, str, str]] = [
    ("part_of_speech", "word class", ""),
    ("number", "grammatical number", "singular plural mass"),
    ("gender", "gender of the form", "feminine masculine"),
    ("animacy", "whether the noun names a human, an animal, a plant, a thing or an idea", "human animal plant thing abstract"),
    ("noun_class", "semantic class of the noun", ""),
    ("verb_class", "semantic class of the verb", ""),
    ("verb_form", "inflection of the verb", "base third past participle gerund"),
    ("adjective_class", "semantic class of the adjective", ""),
    ("colour", "the colour that is named", words.ADJECTIVES["colour"]),
    ("size", "the size that is named", words.ADJECTIVES["size"]),
    ("material", "the material that is named", ""),
    ("valence", "whether the word is good or bad news", "good bad"),
    ("emotion", "the emotion that is named", " ".join(people.FEELINGS)),
    ("person", "grammatical person", "first second third"),
    ("pronoun_case", "case of the pronoun", "subject object possessive"),
    ("definiteness", "kind of determiner", "definite indefinite demonstrative"),
    ("degree", "comparison of the adjective", "comparative superlative"),
    ("quantity", "size of the number that is named", "one few several dozens hundreds thousands"),
    ("date_part", "part of a date", "weekday month day year hour season"),
    ("relation", "relation between people that is named", " ".join(people.RELATIONS.values())),
    ("code_kind", "kind of the code token", "keyword name operator bracket literal string comment"),
    ("lingo_part", "part of a word of the made-up language", "root plural object past future negative link"),
    ("function", "use of the small word", ""),
    ("polarity", "whether the word denies", "denies"),
    ("shape", "how the piece is written", "lower capital digits mark newline mixed"),
]
_REFERENT: list[tuple[str, str, str]] = [
    ("referent", "which entity of the document the piece refers to, in order of creation", _ENTITIES),
    ("referent_kind", "kind of that entity", "person animal thing stuff"),
    ("referent_gender", "gender of that entity", "feminine masculine neuter"),
    ("referent_age", "age group of that person", " ".join(people.AGES)),
    ("referent_occupation", "occupation of that person", " ".join(x.split("|")[0] for x in people.OCCUPATIONS.split("\n") if x)),
    ("referent_trait", "trait of that person", people.TRAITS_GOOD + " " + people.TRAITS_BAD),
    ("referent_home", "town where that person lives", _TOWNS),
    ("referent_relation", "what that person is to the first one", " ".join(people.RELATIONS.values())),
    ("referent_colour", "colour of that thing", words.ADJECTIVES["colour"]),
    ("referent_material", "material of that thing", ""),
    ("referent_class", "semantic class of that thing or species of that animal", ""),
    ("owner", "who owns the thing now", _ENTITIES),
    ("whereabouts", "where the person or thing is now", _PLACES),
]
_CONTEXT: list[tuple[str, str, str]] = [
    ("register", "kind of document", "tale letter diary recipe dialogue notice code lingo ledger facts noise chronicle"),
    ("language", "language of the words", "english lingo code noise"),
    ("topic", "what the document is about", " ".join(people.TOPICS)),
    ("place", "where the scene is", _PLACES),
    ("setting", "whether the scene is under a roof", "indoors outdoors"),
    ("weather", "weather of the scene", " ".join(words.WEATHER)),
    ("season", "season of the scene", " ".join(words.SEASONS)),
    ("time_of_day", "time of day of the scene", " ".join(words.DAY_TIMES)),
    ("tense", "tense of the clause", "past present future"),
    ("mood", "mood of the clause", "indicative imperative interrogative conditional"),
    ("negation", "whether the words stand in the scope of a negation", "affirmative negated"),
    ("quoted", "whether somebody is being quoted", "narration quoted"),
    ("question", "whether the words belong to a question", "statement question"),
    ("speaker", "who is speaking", _ENTITIES),
    ("addressee", "who is being spoken to", _ENTITIES),
    ("clause", "kind of clause", "main relative subordinate complement"),
    ("list_position", "position in a list", "1 2 3 4 5 6 7 8 9 10"),
    ("line_kind", "kind of line", "body heading item salutation closing date_line code speech table noise question answer"),
    ("certainty", "how sure the clause is", "plain possible necessary"),
    ("perspective", "person in which the text is told", "third first second"),
    ("outlook", "whether the sentence tells of something good or bad", "neutral good bad"),
    (
        "sentence_kind",
        "what the sentence does",
        "description action transfer motion speech feeling recall weather instruction fact formula",
    ),
    ("voice", "voice of the clause", "active passive"),
    ("depth", "open brackets around the piece", "1 2 3"),
]
_POSITION: list[tuple[str, str, str]] = [
    ("mention", "whether the entity is mentioned for the first time", "first again"),
    ("antecedent", "how far back the entity was last mentioned", "same_sentence previous_sentence earlier"),
    ("sentence_place", "where in the document the sentence stands", "first second early middle late last"),
    ("word_place", "where in the sentence the piece stands", "first second early middle late last"),
    ("word_length", "letters in the piece", "1 2 3 4 5 6 7 8 9 10"),
]


def _layer(rows: list[tuple[str, str, str]], layer: Layer) -> dict[str, Variable]:
    return {name: Variable(name, text, layer, ["none", *values.split()]) for name, text, values in rows}


WORD = _layer(_WORD, "word")
REFERENT = _layer(_REFERENT, "referent")
CONTEXT = _layer(_CONTEXT, "context")
POSITION = _layer(_POSITION, "place")
VARIABLES: dict[str, Variable] = {**WORD, **REFERENT, **CONTEXT, **POSITION}
"""Every variable, in the order of the label vectors."""
CTX = {name: i for i, name in enumerate(CONTEXT)}
REF = {name: i for i, name in enumerate(REFERENT)}


@no_type_check
def value(name: str, kind: str) -> int:
    """Return the label of a kind, which is added where the variable's kinds were left open."""
    values = VARIABLES[name].values
    if kind not in values:
        values.append(kind)
    return values.index(kind)


CODES: dict[str, dict[str, int]] = {
    name: {kind: i for i, kind in enumerate(variable.values)} for name, variable in CONTEXT.items()
}
"""Label of each kind of the context variables."""
