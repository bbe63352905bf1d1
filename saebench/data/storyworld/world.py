"""The state of one document: who is there, what they own, where they are, what has been written."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, no_type_check

from saebench.data.storyworld import lexicon as lex
from saebench.data.storyworld import vocab_people as people
from saebench.data.storyworld import vocab_things as things
from saebench.data.storyworld import vocab_words as words
from saebench.data.storyworld.document import Document
from saebench.data.storyworld.entities import Codes, Entity, Person, Thing
from saebench.data.storyworld.lexicon import BY_TEXT, THE
from saebench.data.storyworld.rng import Rng, Weighted, mix_text
from saebench.data.storyworld.template import RULES
from saebench.data.storyworld.variables import CODES, CTX, REF, REFERENT

TRAIN, EVAL = 0, 1
_SHARE = 4
"""One combination in so many belongs to evaluation."""
PLACES: dict[str, tuple[str, bool]] = {
    name: (preposition, setting == "indoors")
    for name, preposition, setting in (e.split() for e in things.PLACES.strip().replace("\n", "|").split("|"))
}
WORK: dict[str, tuple[str, str, str]] = {}
for _line in people.OCCUPATIONS.strip().split("\n"):
    _name, _place, _what, _class = _line.split("|")
    WORK[_name] = (_place, _what, _class)
TOWNS = tuple(head + tail for head in things.TOWN_HEADS for tail in things.TOWN_TAILS)
NAMES = (*people.WOMEN, *people.MEN)
FEMALE = frozenset(people.WOMEN)
TRAITS = tuple((people.TRAITS_GOOD + " " + people.TRAITS_BAD).split())
_COLOURS, _SIZES = words.ADJECTIVES["colour"].split(), words.ADJECTIVES["size"].split()
_SMALL = tuple(word for word in _SIZES if word not in ("wide", "enormous", "thin"))
AGE_GROUPS = Weighted([("child", 2), ("young", 4), ("middle", 5), ("old", 3)])
THING_CLASS = {lemma: kind for kind, names in things.THINGS.items() for lemma in names.split()}
SPECIES = {line.split()[0]: line.split("|")[1:] for line in things.ANIMALS.strip().split("\n")}
SOUNDS = {line.split()[0]: line.split("|")[0].split()[3] for line in things.ANIMALS.strip().split("\n")}


VESSELS = tuple("pot pan bowl kettle jug cauldron tray pitcher tin crate barrel bucket jar vase".split())


@no_type_check
def belongs(part: int, *combination: str) -> bool:
    """Return whether a combination of words may be used in a part; each belongs to exactly one."""
    return (mix_text(*combination) % _SHARE == 0) == (part == EVAL)


@no_type_check
@cache
def allowed(part: int, word: str, kind: str) -> tuple[str, ...]:
    """Return the words of a kind that may be combined with a word in a part."""
    pools: dict[str, Sequence[str]] = {
        "name": NAMES,
        "work": tuple(WORK),
        "town": TOWNS,
        "trait": TRAITS,
        "colour": _COLOURS,
        "size": _SMALL,
        "surname": tuple(head + tail for head in things.SURNAME_HEADS for tail in things.SURNAME_TAILS),
        "material": things.MATERIALS.get(THING_CLASS.get(word, ""), "").split(),
        "thing": tuple(THING_CLASS),
        "place": tuple(PLACES),
        "vessel": VESSELS,
    }
    return tuple(x for x in pools[kind] if x != word and belongs(part, *sorted((word, x)))) or tuple(pools[kind])


@no_type_check
@cache
def allowed_set(part: int, word: str, kind: str) -> frozenset[str]:
    """Return :func:`allowed` as a set."""
    return frozenset(allowed(part, word, kind))


def _phrases() -> dict[tuple[str, str], Codes]:
    made: dict[tuple[str, str], Codes] = {}
    for name, (preposition, _) in PLACES.items():
        noun = (THE, lex.NOUNS[name].one)
        made[name, ""] = noun
        made[name, "in"] = (BY_TEXT[preposition], *noun)
        made[name, "to"] = (BY_TEXT["to"], *noun)
        made[name, "from"] = (BY_TEXT["from"], *noun)
        made[name, "n"] = noun[1:]
    return made


PLACE_WORDS = _phrases()


@no_type_check
class Spot:
    """A place as a filler of slots."""

    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name = name

    def np(self, w: World, case: str) -> Codes:
        """Return "the mill", or with ``in`` "in the mill", ``to``, ``from``; ``n`` has no article."""
        return PLACE_WORDS[self.name, case]


SPOTS = {name: Spot(name) for name in PLACES}
_OWNER, _WHERE = REF["owner"], REF["whereabouts"]
_PLACE_CODE, _ENTITY_LIMIT = CODES["place"], len(REFERENT)


@no_type_check
class World:
    """Writes one document and keeps what is true in it."""

    def __init__(self, rng: Rng, part: int, register: str):
        self.rng, self.part, self.register = rng, part, register
        self.pick, self.chance, self.below, self.weighted = rng.pick, rng.chance, rng.below, rng.weighted
        self.codes: list[int] = []
        self.ctx = [1 if name in _PLAIN else 0 for name in CTX]
        self.ctx[CTX["register"]] = CODES["register"][register]
        self.marks: list[int] = []
        self.states: list[tuple[int, ...]] = []
        self.sentences: list[int] = []
        self.events: list[tuple[int, int, int, int]] = []
        self.stack: list[list[int]] = []
        self.voices: list[tuple[Person | None, Person | None]] = []
        self.env: dict[str, Any] = {}
        self.entities: list[Entity] = []
        self.people: list[Person] = []
        self.things: list[Thing] = []
        self.speaker: Person | None = None
        self.hearer: Person | None = None
        self.last_person: list[Person | None] = [None, None]
        self.last_thing: Thing | None = None
        self.mentioned = 0
        self.tense = "past"
        self.bare = True
        self.focus: Person = None  # pyright: ignore[reportAttributeAccessIssue]
        """Who is being told about; set as soon as there is somebody."""
        self.gap = 1 + rng.below(2)
        """Line ends between paragraphs."""
        self.most = 14
        """Most entities of this document."""
        self.spelt = rng.chance(50)
        """Whether this document spells numbers out."""
        self.reason: tuple[str, Person | None, Person | None, Thing | None] = ("", None, None, None)
        """What happened last that somebody may rejoice or grieve over: kind, who, through whom, what."""
        self.used: set[str] = set()
        self.place, self.season, self.weather, self.time, self.topic, self.town = "", "", "", "", "", ""

    # what is written

    def mark(self) -> None:
        """Note that from here on the context is as it is now."""
        self.marks.append(len(self.codes))
        self.states.append(tuple(self.ctx))

    def say(self, rule: str, tense: str = "", **env: Any) -> None:
        """Write one sentence of a rule."""
        found = RULES[rule]
        tense = tense or self.tense
        self.env.update(env)
        ctx, codes = self.ctx, self.codes
        ctx[_TENSE], ctx[_KIND], ctx[_OUTLOOK] = _TENSES[tense], _KINDS[found.kind], _OUTLOOKS[found.outlook]
        ctx[_NEGATION] = ctx[_CLAUSE] = ctx[_MOOD] = ctx[_CERTAINTY] = ctx[_VOICE] = ctx[_QUESTION] = 1
        self.mentioned = 0
        start = len(codes)
        self.marks.append(start)
        self.states.append(tuple(ctx))
        self.sentences.append(start)
        for step in self.pick(found.steps(tense)):
            if step.__class__ is tuple:
                codes += step
            else:
                step(self)
        if self.bare:
            codes[start] |= 3
            self.bare = False
        else:
            codes[start] |= 1

    def agreement(self, who: str) -> int:
        """Return which verb form goes with the filler of a slot: 0 "she", 1 "I", 2 "they"."""
        if who in _FIXED:
            return _FIXED[who]
        filler = self.env[who]
        return 0 if filler.__class__ is tuple else 1 if filler is self.speaker else 2 if filler is self.hearer else 0

    def clear(self, who: Person) -> bool:
        """Return whether a pronoun would be taken to mean somebody."""
        return self.last_person[0 if who.female else 1] is who or who is self.speaker

    def newline(self, n: int = 1) -> None:
        """End the line, ``n`` times."""
        self.codes += (lex.NEWLINE,) * n
        self.bare = True
        self.last_person = [None, None]
        self.last_thing = None

    def put(self, codes: Codes, **context: str) -> None:
        """Write pieces as they are, as a sentence of their own with some context of their own."""
        start = len(self.codes)
        before = self.ctx[:]
        self.set(**context)
        self.sentences.append(start)
        self.codes += codes
        if self.bare:
            self.codes[start] |= 2
            self.bare = False
        self.ctx[:] = before
        self.mark()

    def set(self, **context: str) -> None:
        """Change the context from here on."""
        for name, kind in context.items():
            self.ctx[CTX[name]] = CODES[name][kind]
        self.mark()

    # what is true

    def go(self, place: str) -> None:
        """Move the scene."""
        self.place = place
        self.ctx[CTX["place"]] = _PLACE_CODE[place]
        self.ctx[CTX["setting"]] = 1 if PLACES[place][1] else 2

    def climate(self, season: str = "", weather: str = "", time: str = "") -> None:
        """Change season, weather or time of day."""
        self.season, self.weather, self.time = season or self.season, weather or self.weather, time or self.time
        self.ctx[CTX["season"]] = CODES["season"][self.season]
        self.ctx[CTX["weather"]] = CODES["weather"][self.weather]
        self.ctx[CTX["time_of_day"]] = CODES["time_of_day"][self.time]

    def own(self, thing: Thing, owner: Person | None) -> None:
        """Give a thing to somebody, or to nobody."""
        thing.owner = owner
        if owner is not None:
            thing.place = ""
        self.events.append((len(self.codes), thing.index, _OWNER, 0 if owner is None else owner.index))

    def locate(self, entity: Entity, place: str) -> None:
        """Put somebody or something into a place."""
        entity.place = place
        self.events.append((len(self.codes), entity.index, _WHERE, _PLACE_CODE[place] if place else 0))

    # what is made up

    def scene(self) -> None:
        """Draw topic, season, weather, time of day, town and place."""
        self.topic = self.pick(_TOPICS)
        self.ctx[CTX["topic"]] = CODES["topic"][self.topic]
        self.season = self.pick(_SEASONS)
        self.climate(self.season, self.pick(_SEASON_WEATHER[self.season]), self.pick(_TIMES))
        self.town = self.pick(TOWNS)
        self.go(self.some_place())

    def some_place(self) -> str:
        """Draw a place, more often one that suits the topic."""
        name = self.people[0].name_text if self.people else ""
        fit = allowed_set(self.part, name, "place") if name else _PLACE_SET
        near = [p for p in _TOPIC_PLACES[self.topic] if p in fit and p != self.place]
        if near and self.chance(60):
            return self.pick(near)
        return self.pick([p for p in _ALL_PLACES if p in fit and p != self.place])

    def person(self, group: str = "") -> Person:
        """Add a person; the combinations of name, occupation, home and first person belong to this part."""
        first = self.people[0].name_text if self.people else ""
        pool = allowed(self.part, first, "name") if first else NAMES
        name = self.pick([n for n in pool if n not in self.used])
        self.used.add(name)
        group = group or self.weighted(AGE_GROUPS)
        low, high = people.AGES[group]
        age = low + self.below(high - low + 1)
        job = "" if group == "child" else self.pick([j for j in allowed(self.part, name, "work") if j not in self.used])
        self.used.add(job)
        home = self.pick(allowed(self.part, name, "town"))
        new = Person(len(self.entities) + 1, name, name in FEMALE, group, age, job, self.pick(TRAITS), home)
        self.entities.append(new)
        self.people.append(new)
        return new

    def thing(self, lemma: str = "", kind: str = "", owner: Person | None = None) -> Thing:
        """Add a thing of a kind whose noun is new to the document; its adjectives and its first owner belong to this part."""
        if not lemma:
            kind = kind or self.pick(_TOPIC_THINGS[self.topic])
            fit = _THING_SET if owner is None else allowed_set(self.part, owner.name_text, "thing")
            free = [n for n in _THINGS[kind] if n not in self.used and n in fit]
            lemma = self.pick(free or [n for n in THING_CLASS if n not in self.used and n in fit])
        self.used.add(lemma)
        kind = THING_CLASS[lemma]
        style = self.below(5)
        colour = self.pick(allowed(self.part, lemma, "colour")) if style in (0, 1, 4) and kind != "food" else ""
        material = self.pick(allowed(self.part, lemma, "material")) if style in (2, 3) and things.MATERIALS[kind] else ""
        size = self.pick(allowed(self.part, lemma, "size")) if style in (1, 3) or not (colour or material) else ""
        return self._add(Thing(len(self.entities) + 1, lemma, colour, material, size))

    def pet(self, owner: Person) -> Thing:
        """Add an animal that somebody owns."""
        species = self.pick([s for s in _PETS if s not in self.used])
        self.used.add(species)
        name = self.pick([n for n in things.PET_NAMES if n not in self.used]) if self.chance(50) else ""
        self.used.add(name)
        new = self._add(Thing(len(self.entities) + 1, species, self.pick(allowed(self.part, species, "colour")), "", "", name))
        self.own(new, owner)
        return new

    def _add(self, thing: Thing) -> Thing:
        self.entities.append(thing)
        self.things.append(thing)
        return thing

    def weather_today(self) -> str:
        """Draw a weather that suits the season."""
        return self.pick(_SEASON_WEATHER[self.season])

    def other(self, *people_: Person | None) -> Person | None:
        """Draw somebody else, if there is anybody."""
        left = [p for p in self.people if p not in people_]
        return self.pick(left) if left else None

    def document(self) -> Document:
        """Return what was written."""
        lex.articles(self.codes)
        return Document(
            codes=self.codes,
            marks=self.marks,
            states=self.states,
            sentences=self.sentences,
            events=self.events,
            entities=[tuple(e.labels) for e in self.entities],
            register=self.register,
            nats=self.rng.nats,
        )


_FIXED = {"it": 0, "i": 1, "they": 2, "you": 2}
_PLAIN = frozenset("language tense mood negation quoted question clause line_kind certainty perspective outlook voice".split())
_TENSE, _KIND, _OUTLOOK, _NEGATION = CTX["tense"], CTX["sentence_kind"], CTX["outlook"], CTX["negation"]
_CLAUSE, _MOOD, _CERTAINTY, _VOICE, _QUESTION = (CTX[x] for x in ("clause", "mood", "certainty", "voice", "question"))
_TENSES, _KINDS, _OUTLOOKS = CODES["tense"], CODES["sentence_kind"], CODES["outlook"]
_TOPICS, _SEASONS, _TIMES = tuple(people.TOPICS), tuple(words.SEASONS), tuple(words.DAY_TIMES)
_SEASON_WEATHER = {season: tuple(names.split()) for season, names in words.SEASON_WEATHER.items()}
_TOPIC_PLACES = {topic: tuple(names.split()) for topic, (_, names) in people.TOPICS.items()}
_TOPIC_THINGS = {topic: tuple(names.split()) for topic, (names, _) in people.TOPICS.items()}
_ALL_PLACES, _PLACE_SET = tuple(PLACES), frozenset(PLACES)
_THINGS = {kind: tuple(names.split()) for kind, names in things.THINGS.items()}
_THING_SET = frozenset(THING_CLASS)
_PETS = tuple(things.PETS)
