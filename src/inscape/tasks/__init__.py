"""Data sets, one file each, made for the tokenizer at hand: `tasks.ioi(model, 32, seed=0)`."""

from inscape.tasks.ioi import ioi
from inscape.tasks.pairs import Pairs
from inscape.tasks.plain_text import plain_text

__all__ = ["Pairs", "ioi", "plain_text"]
