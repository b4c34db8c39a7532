"""Data sets, one file each, made for the tokenizer at hand: `tasks.ioi(model, 32, seed=0)`."""

from inscape.tasks.acronym import acronym
from inscape.tasks.agreement import agreement
from inscape.tasks.arithmetic import arithmetic
from inscape.tasks.cipher import cipher
from inscape.tasks.colored_objects import colored_objects
from inscape.tasks.concepts import CONCEPTS, coin_flips, negation, word_kind
from inscape.tasks.counting import count_items, counting
from inscape.tasks.digits import Images, digits
from inscape.tasks.facts import facts
from inscape.tasks.frames import framed
from inscape.tasks.graph_text import GraphTexts, graph_text
from inscape.tasks.graph_walk import GraphWalks, graph_walk
from inscape.tasks.greater_than import greater_than
from inscape.tasks.hops import Hops, hops
from inscape.tasks.induction import induction, repeated_probe
from inscape.tasks.ioi import ioi
from inscape.tasks.labelled import LabelledTexts
from inscape.tasks.laundry_list import laundry_list
from inscape.tasks.name_order import name_order
from inscape.tasks.ordinals import OrdinalClass, ordinals, succession
from inscape.tasks.pairs import Pairs
from inscape.tasks.plain_text import plain_text
from inscape.tasks.statements import statements
from inscape.tasks.text_noise import misspelt, prefixed

__all__ = [
    "CONCEPTS",
    "GraphTexts",
    "GraphWalks",
    "Hops",
    "Images",
    "LabelledTexts",
    "OrdinalClass",
    "Pairs",
    "acronym",
    "agreement",
    "arithmetic",
    "cipher",
    "coin_flips",
    "colored_objects",
    "count_items",
    "counting",
    "digits",
    "facts",
    "framed",
    "graph_text",
    "graph_walk",
    "greater_than",
    "hops",
    "induction",
    "ioi",
    "laundry_list",
    "misspelt",
    "name_order",
    "negation",
    "ordinals",
    "plain_text",
    "prefixed",
    "repeated_probe",
    "statements",
    "succession",
    "word_kind",
]
