"""English inflection: plurals, verb forms, comparison and the indefinite article."""

from __future__ import annotations

_PLURALS = {
    "child": "children", "foot": "feet", "tooth": "teeth", "goose": "geese", "mouse": "mice", "sheep": "sheep",
    "deer": "deer", "fish": "fish", "knife": "knives", "shelf": "shelves", "loaf": "loaves", "leaf": "leaves",
    "wolf": "wolves", "calf": "calves", "wife": "wives", "thief": "thieves", "half": "halves", "scarf": "scarves",
    "man": "men", "woman": "women", "fisherman": "fishermen", "postman": "postmen", "ferryman": "ferrymen",
    "watchman": "watchmen", "person": "people", "potato": "potatoes", "tomato": "tomatoes", "echo": "echoes",
    "hero": "heroes", "swift": "swifts", "ox": "oxen",
}  # fmt: skip

_VERBS = {
    "be": ("is", "was", "been", "being"), "have": ("has", "had", "had", "having"), "do": ("does", "did", "done", "doing"),
    "go": ("goes", "went", "gone", "going"), "say": ("says", "said", "said", "saying"),
}  # fmt: skip

_PAST = """
become became become|begin began begun|bend bent bent|bind bound bound|bite bit bitten|blow blew blown|break broke broken
bring brought brought|build built built|burst burst burst|buy bought bought|catch caught caught|choose chose chosen
come came come|creep crept crept|cut cut cut|dig dug dug|draw drew drawn|drink drank drunk|drive drove driven|eat ate eaten
fall fell fallen|feed fed fed|feel felt felt|fight fought fought|find found found|fly flew flown|forget forgot forgotten
forgive forgave forgiven|freeze froze frozen|get got got|give gave given|grind ground ground|grow grew grown|hang hung hung
hear heard heard|hide hid hidden|hit hit hit|hold held held|keep kept kept|know knew known|lay laid laid|lead led led
leave left left|lend lent lent|let let let|lie lay lain|light lit lit|lose lost lost|make made made|mean meant meant
meet met met|mow mowed mown|pay paid paid|put put put|read read read|ride rode ridden|ring rang rung|rise rose risen|run ran run
see saw seen|seek sought sought|sell sold sold|send sent sent|set set set|sew sewed sewn|shake shook shaken|shine shone shone
shoot shot shot|show showed shown|shut shut shut|sing sang sung|sink sank sunk|sit sat sat|sleep slept slept|slide slid slid
speak spoke spoken|spend spent spent|spin spun spun|spread spread spread|stand stood stood|steal stole stolen
stick stuck stuck|sting stung stung|stride strode stridden|sweep swept swept|swim swam swum|swing swung swung|take took taken
teach taught taught|tear tore torn|tell told told|think thought thought|throw threw thrown|understand understood understood
wake woke woken|wear wore worn|weave wove woven|weep wept wept|win won won|wind wound wound|write wrote written
hatch hatched hatched|shear sheared shorn|sow sowed sown|graze grazed grazed|lean leaned leaned|cost cost cost
"""
_IRREGULAR = {
    base: (past, done) for line in _PAST.split("\n") if line for base, past, done in (item.split() for item in line.split("|"))
}
_VOWELS = "aeiou"
_DOUBLED = frozenset(
    "admit beg chop clap dip drag drop drum fit flap grab grin hop hug hum jog knit knot mop nap nod pat permit pin plan plod"
    " plug pop prefer regret rob rub scrub shop sip skip slam slip snap sob spot step stir stop strap strip strum tap tip trap"
    " trim trip trot tug wag wrap zip begin cut dig forget get hit let put run set shut sit spin swim win"
    " travel quarrel equal big red sad fat hot wet thin slim dim grim tan".split()
)
_HARD_H = ("hour", "honest", "heir", "honour")
_SOFT_U = ("use", "uni", "euro", "one", "once", "ewe", "usu", "uti")


def plural(noun: str) -> str:
    """Return the plural of a noun."""
    if noun in _PLURALS:
        return _PLURALS[noun]
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in _VOWELS:
        return noun[:-1] + "ies"
    return noun + "s"


def third(verb: str) -> str:
    """Return the third person singular of the present."""
    if verb in _VERBS:
        return _VERBS[verb][0]
    if verb.endswith(("s", "x", "z", "ch", "sh", "o")):
        return verb + "es"
    if verb.endswith("y") and verb[-2] not in _VOWELS:
        return verb[:-1] + "ies"
    return verb + "s"


def _stem(word: str) -> str:
    return word + word[-1] if word in _DOUBLED else word


def past(verb: str) -> str:
    """Return the past tense."""
    if verb in _VERBS:
        return _VERBS[verb][1]
    return _IRREGULAR[verb][0] if verb in _IRREGULAR else _regular(verb)


def participle(verb: str) -> str:
    """Return the past participle."""
    if verb in _VERBS:
        return _VERBS[verb][2]
    return _IRREGULAR[verb][1] if verb in _IRREGULAR else _regular(verb)


def _regular(verb: str) -> str:
    if verb.endswith("e"):
        return verb + "d"
    if verb.endswith("y") and verb[-2] not in _VOWELS:
        return verb[:-1] + "ied"
    return _stem(verb) + "ed"


def gerund(verb: str) -> str:
    """Return the form in -ing."""
    if verb in _VERBS:
        return _VERBS[verb][3]
    if verb.endswith("ie"):
        return verb[:-2] + "ying"
    if verb.endswith("e") and not verb.endswith(("ee", "oe", "ye")):
        return verb[:-1] + "ing"
    return _stem(verb) + "ing"


def compared(adjective: str) -> tuple[str, str] | None:
    """Return comparative and superlative of a short adjective, ``None`` for one that takes "more"."""
    irregular = {"good": ("better", "best"), "bad": ("worse", "worst"), "far": ("further", "furthest")}
    if adjective in irregular:
        return irregular[adjective]
    groups = "".join("v" if letter in _VOWELS + "y" else "c" for letter in adjective.removesuffix("e"))
    syllables = sum(1 for i, kind in enumerate(groups) if kind == "v" and (i == 0 or groups[i - 1] == "c"))
    if adjective.endswith("y") and syllables <= 2 and adjective[-2] not in _VOWELS:
        return adjective[:-1] + "ier", adjective[:-1] + "iest"
    if syllables > 1:
        return None
    stem = _stem(adjective).removesuffix("e") if adjective.endswith("e") else _stem(adjective)
    return stem + "er", stem + "est"


def article(word: str) -> str:
    """Return "a" or "an", whichever goes before the word."""
    low = word.lower()
    if low.startswith(_HARD_H):
        return "an"
    if low.startswith(_SOFT_U):
        return "a"
    if low[0].isdigit():
        return "an" if low[0] == "8" or low in ("11", "18") else "a"
    return "an" if low[0] in _VOWELS else "a"
