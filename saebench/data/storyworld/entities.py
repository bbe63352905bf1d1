"""People, animals and things, and how they are named as the text goes on."""

from __future__ import annotations

from typing import Any, no_type_check

from saebench.data.storyworld import lexicon as lex
from saebench.data.storyworld.lexicon import BY_TEXT, ENTITY, NOUNS, THE
from saebench.data.storyworld.variables import REF, REFERENT, value

Codes = tuple[int, ...]
_I, _ME, _MY = BY_TEXT["I"], BY_TEXT["me"], BY_TEXT["my"]
_YOU, _YOUR = BY_TEXT["you"], BY_TEXT["your"]
_HER_POSSESSIVE = lex.form("her", "pronoun", default=False, person="third", pronoun_case="possessive", gender="feminine")
_PRONOUNS = (
    (BY_TEXT["she"], BY_TEXT["her"], _HER_POSSESSIVE),
    (BY_TEXT["he"], BY_TEXT["him"], BY_TEXT["his"]),
)
_IT, _ITS = BY_TEXT["it"], BY_TEXT["its"]
_REF_VALUES = {name: {kind: i for i, kind in enumerate(v.values)} for name, v in REFERENT.items()}


@no_type_check
def _label(vector: list[int], name: str, kind: str) -> None:
    table = _REF_VALUES[name]
    if kind not in table:
        table[kind] = value(name, kind)
    vector[REF[name]] = table[kind]


@no_type_check
class Entity:
    """Something that the document follows."""

    __slots__ = ("index", "labels", "place", "seen", "told")
    kind = ""

    def __init__(self, index: int):
        self.index = index
        self.seen = False
        self.place = ""
        self.told: set[str] = set()
        """What the text has said of it so far."""
        self.labels = [0] * len(REFERENT)
        self.labels[REF["referent"]] = index
        _label(self.labels, "referent_kind", self.kind)


@no_type_check
class Person(Entity):
    """Somebody with a name and a life."""

    __slots__ = (
        "age", "female", "group", "home", "name", "name_text", "noun", "possessive", "pronouns", "relation", "title", "trait",
        "work",
    )  # fmt: skip
    kind = "person"

    def __init__(self, index: int, name: str, female: bool, group: str, age: int, work: str, trait: str, home: str):
        super().__init__(index)
        tag = index << ENTITY
        self.female, self.group, self.age, self.work, self.trait, self.home = female, group, age, work, trait, home
        self.name_text = name
        self.name: Codes = (lex.NAMES[name] | tag,)
        self.possessive: Codes = (lex.NAMES[name] | tag, lex.POSSESSIVE | tag)
        self.noun: Codes = (THE, NOUNS[work].one | tag) if work else ()
        self.title = work
        subject, object_, possessive = _PRONOUNS[0 if female else 1]
        self.pronouns = ((subject | tag,), (object_ | tag,), (possessive | tag,))
        self.relation = ""
        for key, kind in (
            ("gender", "feminine" if female else "masculine"),
            ("age", group),
            ("occupation", work),
            ("trait", trait),
            ("home", home),
        ):
            if kind:
                _label(self.labels, "referent_" + key, kind)

    def relate(self, relation: str) -> None:
        """Say what this person is to the first one of the document."""
        self.relation = relation
        _label(self.labels, "referent_relation", relation)

    def np(self, w: Any, case: str) -> Codes:
        """Return how the person is named here; ``o`` object, ``p`` possessive, ``v`` called.

        ``n`` and ``m``: always by name, where others would say "I" and "me".
        """
        tag = self.index << ENTITY
        slot = 0 if self.female else 1
        if case == "v":
            w.last_person[slot] = self
            return self.name
        if self is w.speaker:
            return ((_ME if case in ("o", "m") else _MY if case == "p" else _I) | tag,)
        if self is w.hearer:
            return ((_YOUR if case == "p" else _YOU) | tag,)
        if w.last_person[slot] is self and case not in ("n", "m"):
            here = w.mentioned == self.index
            w.mentioned = self.index
            if here or w.chance(60):
                return self.pronouns[1 if case == "o" else 2 if case == "p" else 0]
        else:
            w.last_person[slot] = self
            w.mentioned = self.index
        if self.seen and case not in ("n", "m", "p") and "work" in self.told and self.noun and w.chance(18):
            return self.noun
        self.seen = True
        return self.possessive if case == "p" else self.name


@no_type_check
class Thing(Entity):
    """An object, or an animal when ``animal`` is set."""

    __slots__ = (
        "adjective",
        "animal",
        "article",
        "colour",
        "full",
        "lemma",
        "material",
        "noun",
        "owner",
        "plain",
        "size",
        "sort",
    )
    kind = "thing"

    def __init__(self, index: int, lemma: str, colour: str, material: str, size: str, name: str = ""):
        self.animal = NOUNS[lemma].kind == "animal"
        super().__init__(index)
        if self.animal:
            _label(self.labels, "referent_kind", "animal")
        tag = index << ENTITY
        noun = NOUNS[lemma]
        self.lemma, self.sort, self.colour, self.material, self.size = lemma, noun.kind, colour, material, size
        self.owner: Person | None = None
        self.noun: Codes = (noun.one | tag,)
        words = [text for text in (size, colour, material) if text]
        self.adjective = words[0] if words else ""
        self.full: Codes = (*(lex.ADJECTIVES[text] | tag for text in words), noun.one | tag)
        self.article = BY_TEXT["an" if words and words[0][0] in "aeiou" else "a"] if words else noun.an
        self.plain: Codes = (lex.NAMES[name] | tag,) if name else (THE, noun.one | tag)
        for key, kind in (("colour", colour), ("material", material), ("class", lemma if self.animal else noun.kind)):
            if kind:
                _label(self.labels, "referent_" + key, kind)
        _label(self.labels, "referent_gender", "neuter")

    def np(self, w: Any, case: str) -> Codes:
        """Return how the thing is named here; ``i`` "a red kettle", ``f`` "the red kettle", ``d`` no pronoun, ``n`` bare."""
        tag = self.index << ENTITY
        if case == "n":
            return self.noun
        if case == "i" and not self.seen:
            self.seen = True
            w.last_thing = self
            return (self.article, *self.full)
        if w.last_thing is self and case in ("", "p") and w.chance(55):
            return ((_ITS if case == "p" else _IT) | tag,)
        w.last_thing = self
        if self.seen and case in ("", "d", "o"):
            owner = self.owner
            if (
                owner is not None
                and (w.clear(owner) or (owner is not w.env.get("a") and owner is not w.env.get("b")))
                and w.chance(25)
            ):
                return (*owner.np(w, "p"), self.noun[0])
        fresh, self.seen = not self.seen, True
        if fresh or case in ("f", "i") or (case in ("", "d", "o") and w.chance(20)):
            return (THE, *self.full)
        if case == "p":
            return (*self.plain, lex.POSSESSIVE | tag)
        return self.plain
