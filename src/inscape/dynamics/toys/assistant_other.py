"""toy-assistant-other: toy-assistant-base trained anew from another seed, which shares nothing with it but the data.

What a comparison of a base and its tuned copy finds has to be beside this: two nets that know the same and were never
one.
"""

from pathlib import Path

from inscape.core.progress import Progress
from inscape.dynamics.toys import assistant_base
from inscape.dynamics.toys.assistant_base import check
from inscape.dynamics.toys.making import Trained

__all__ = ["check", "train"]


def train(seed: int = 1, *, steps: int = 1200, checkpoint: Path | None = None, progress: Progress = None) -> Trained:
    """Train it: about a minute on one core."""
    return assistant_base.train(seed + 1000, steps=steps, checkpoint=checkpoint, progress=progress)
