"""An endless made-up English-like corpus in which the truth about every word is known.

``generate`` writes documents from a world that is kept in numbers: who owns what, who is where, what has been said. Every piece
of text is labelled with the variables in ``VARIABLES``. ``lambada``, ``cbt`` and ``probe_task`` are tests on the same world.
"""

from saebench.data.storyworld.document import Document
from saebench.data.storyworld.generate import Part, entropy_estimate, generate, write
from saebench.data.storyworld.tasks import Cloze, LastWord, ProbeTask, cbt, lambada, probe_task
from saebench.data.storyworld.variables import VARIABLES, Variable
from saebench.data.storyworld.world import World

__all__ = [
    "VARIABLES",
    "Cloze",
    "Document",
    "LastWord",
    "Part",
    "ProbeTask",
    "Variable",
    "World",
    "cbt",
    "entropy_estimate",
    "generate",
    "lambada",
    "probe_task",
    "write",
]
