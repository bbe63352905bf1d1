"""A second language: made-up roots, regular endings, the verb at the end; some lines are followed by what they mean."""

from __future__ import annotations

from saebench.data.storyworld import lexicon as lex
from saebench.data.storyworld import vocab_things as things
from saebench.data.storyworld import vocab_words as words
from saebench.data.storyworld.conjugate import verb_forms
from saebench.data.storyworld.lexicon import AN, BY_TEXT, NOUNS, THE, VERBS, A, form
from saebench.data.storyworld.rng import Weighted, mix_text
from saebench.data.storyworld.variables import CODES, CTX, VARIABLES
from saebench.data.storyworld.world import World, allowed

_ONSETS, _MIDDLES = "p t k b d g m n l r s v z f h".split(), "a e i o u ai ou".split()
_ACTORS = (*things.PEOPLE_NOUNS.split(), *(line.split()[0] for line in things.ANIMALS.strip().split("\n")))
_OBJECTS = tuple(
    name for kind in ("tool", "container", "food", "toy", "keepsake", "garment") for name in things.THINGS[kind].split()
)
_DOES = tuple(
    "see hear find watch love hate fear push pull carry hold lift drop touch hide wash paint want need take bring buy sell steal"
    " know remember forget follow".split()
)
_LOOKS = tuple((words.ADJECTIVES["colour"] + " big small old new").split())
_ENDINGS = {
    name: form(text, "lingo", glue=True, default=False, lingo_part=name)
    for name, text in (("plural", "ni"), ("object", "ku"), ("past", "ta"), ("future", "so"), ("negative", "mez"))
}
_LINKS = {name: form(text, "lingo", default=False, lingo_part="link") for name, text in (("and", "eb"),)}


def _roots() -> dict[str, int]:
    made: dict[str, int] = {}
    taken = {"eb"}
    for lemma in dict.fromkeys((*_ACTORS, *_OBJECTS, *_DOES, *_LOOKS)):
        salt = 0
        while True:
            bits = mix_text("lingo", lemma, str(salt))
            root = ""
            for _ in range(2):
                root += _ONSETS[bits % 15] + _MIDDLES[bits // 15 % 7]
                bits //= 105
            root += ("", "l", "n", "s")[bits % 4]
            if root not in taken:
                break
            salt += 1
        taken.add(root)
        english = NOUNS[lemma].one if lemma in NOUNS else VERBS[lemma].base if lemma in VERBS else lex.ADJECTIVES[lemma]
        labels = {"lingo_part": "root"}
        for i, name in enumerate(lex.WORD):
            value = lex.LABELS[english >> 2][i]
            if value and name in ("animacy", "noun_class", "verb_class", "colour", "adjective_class", "size"):
                labels[name] = VARIABLES[name].values[value]
        made[lemma] = lex.entry(root, "lingo", labels, default=False)
    return made


ROOTS = _roots()
"""The root of each English word."""
_LANGUAGE, _TENSE, _NEGATION = (CTX[x] for x in ("language", "tense", "negation"))
_LINGO, _ENGLISH = CODES["language"]["lingo"], CODES["language"]["english"]
_TENSES = Weighted([("past", 4), ("present", 4), ("future", 2)])
_DOT, _EQUALS = BY_TEXT["."], form("=", "list_mark", default=False)
_THAT = BY_TEXT["and"]


def _noun(w: World, lemma: str, many: bool, look: str, object_: bool) -> tuple[list[int], list[int]]:
    """Return a noun in the made-up language and in English."""
    word = [ROOTS[lemma]]
    if many:
        word.append(_ENDINGS["plural"])
    if object_:
        word.append(_ENDINGS["object"])
    noun = NOUNS[lemma]
    adjective = [lex.ADJECTIVES[look]] if look else []
    if look:
        word.append(ROOTS[look])
    if many:
        return word, [THE, *adjective, noun.many]
    if object_:
        vowel = (look or lemma)[0] in "aeiou" and not lemma.startswith("u") if not look else look[0] in "aeiou"
        return word, [(AN if vowel else A) if look else noun.an, *adjective, noun.one]
    return word, [THE, *adjective, noun.one]


def _clause(w: World) -> tuple[list[int], list[int], str, bool]:
    """Return a clause in both languages, its tense and whether it denies."""
    actor = w.pick(_ACTORS)
    thing = w.pick([x for x in allowed(w.part, actor, "thing") if x in ROOTS])
    verb = w.pick(_DOES)
    many = w.chance(30)
    tense, denied = w.weighted(_TENSES), w.chance(20)
    one, english = _noun(w, actor, many, w.pick(_LOOKS) if w.chance(20) else "", False)
    other, translated = _noun(w, thing, w.chance(30), w.pick(_LOOKS) if w.chance(30) else "", True)
    last = [ROOTS[verb]]
    if tense != "present":
        last.append(_ENDINGS[tense])
    if denied:
        last.append(_ENDINGS["negative"])
    return one + other + last, english + list(verb_forms(verb, tense, denied)[2 if many else 0]) + translated, tense, denied


def lingo(w: World) -> None:
    """Write lines of the made-up language."""
    w.scene()
    glossed = w.chance(60)
    for n in range(12 + w.below(22)):
        if n and (glossed or w.chance(35)):
            w.newline()
        foreign, english, tense, denied = _clause(w)
        w.ctx[_TENSE], w.ctx[_NEGATION] = CODES["tense"][tense], 2 if denied else 1
        gloss = glossed and w.chance(70)
        if w.chance(20):
            more, also, _, _ = _clause(w)
            foreign += [_LINKS["and"], *more]
            english += [_THAT, *also]
        foreign.append(_DOT)
        w.ctx[_LANGUAGE] = _LINGO
        w.mark()
        foreign[0] |= lex.CAPITAL
        w.put(tuple(foreign), sentence_kind="fact")
        if gloss:
            w.put((_EQUALS,))
            w.ctx[_LANGUAGE] = _ENGLISH
            w.mark()
            english[0] |= lex.CAPITAL
            w.put((*english, _DOT), sentence_kind="fact")
