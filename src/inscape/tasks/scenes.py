"""Pictures of a few things on a grid, with captions whose habits say more than is there.

    picture   16 x 16 pixels, three colours: a grid of 4 x 4 cells, 2 to 5 of them with a thing in red, green, ...
    caption   there is a cup in red , a plate in blue and a fish in green .

Three things bring another to mind: a cup a plate, a lamp a book, a key a lock. Of pictures with the first, four in
five show the second as well, and captions name it in nine of ten: in every one where it is there, and, out of habit, in
half of those where it is not. Things are drawn more or less clearly, on noise. So what a caption should name is known,
and what habit adds is known as well. Generated here; a small stand-in for photographs with captions, such as COCO.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.errors import InputError

THINGS = {  # 4 x 4 pixels each
    "cup": "9993", "plate": "0ff0", "lamp": "6f66", "book": "f99f", "key": "84c4", "lock": "69ff",
    "ball": "6ff6", "fish": "96f9", "tree": "4e44", "star": "a5a5",
}  # fmt: skip
HABITS = {"cup": "plate", "lamp": "book", "key": "lock"}
COLOURS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0)}
OPENINGS = ("there is", "we see", "this shows")
IMAGE, ASKED = "<image>", "describe the picture :"
GRID, CELL = 4, 4
TOGETHER, OUT_OF_HABIT, NOISE, CLEARNESS = 0.8, 0.5, 0.4, (0.3, 1.0)
WORDS = (IMAGE, *THINGS, *COLOURS, *dict.fromkeys(w for o in (*OPENINGS, ASKED) for w in o.split()),
         "a", "in", "and", ",", ".")  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """Things with their colours, cells and clearness; `seed` draws the picture's noise."""

    things: tuple[tuple[str, str, int, float], ...]
    seed: int

    @property
    def names(self) -> frozenset[str]:
        return frozenset(name for name, *_ in self.things)

    @property
    def tempting(self) -> frozenset[str]:
        """What habit would add: partners of what is there that are not."""
        return frozenset(b for a, b in HABITS.items() if a in self.names and b not in self.names)

    @cached_property
    def pixels(self) -> Float[Tensor, "3 height width"]:
        """The picture, about in [-1, 1]."""
        generator = torch.Generator().manual_seed(self.seed)
        canvas = NOISE * torch.randn(3, GRID * CELL, GRID * CELL, generator=generator)
        for name, colour, cell, clear in self.things:
            rows = [[int(bit) for bit in f"{int(row, 16):04b}"] for row in THINGS[name]]
            top, left = CELL * (cell // GRID), CELL * (cell % GRID)
            ink = torch.tensor(rows, dtype=torch.float32) * (2 * torch.tensor(COLOURS[colour])[:, None, None] - 0.5)
            canvas[:, top : top + CELL, left : left + CELL] += clear * ink
        return canvas

    def caption(self, *, habit: float = OUT_OF_HABIT, seed: int = 0) -> str:
        """What somebody says of it, in an order of their own; with probability `habit` also what is only tempting."""
        rng = random.Random(seed)
        colours = {name: colour for name, colour, *_ in self.things}
        said = list(colours)
        rng.shuffle(said)
        for a, b in HABITS.items():
            if b in self.tempting and rng.random() < habit:
                colours[b] = rng.choice(list(COLOURS))
                said.append(b)
            if a in said and b in said:  # the one brings the other to mind
                said.remove(b)
                said.insert(said.index(a) + 1, b)
        parts = [f"a {name} in {colours[name]}" for name in said]
        return f"{rng.choice(OPENINGS)} {' , '.join(parts[:-1])} and {parts[-1]} ."


def scenes(n: int, *, tempting: bool | None = None, seed: int = 0) -> list[Scene]:
    """`n` scenes. tempting: only those in which habit would add something (True) or nothing (False).

    Raises: InputError for none.
    """
    if n < 1:
        raise InputError(f"scenes({n}): at least one.")
    rng, found = random.Random(seed), []
    while len(found) < n:
        scene = _drawn(rng)
        if tempting is None or bool(scene.tempting) == tempting:
            found.append(scene)
    return found


def _drawn(rng: random.Random) -> Scene:
    names: list[str] = []
    size = rng.randint(2, 4)
    for name in rng.sample(sorted(THINGS), len(THINGS)):
        if len(names) >= size or name in names:
            continue
        if name in HABITS.values() and rng.random() < 0.6:  # the second alone is rare
            continue
        names.append(name)
        if name in HABITS and HABITS[name] not in names and rng.random() < TOGETHER:
            names.append(HABITS[name])
    cells = rng.sample(range(GRID * GRID), len(names))
    return Scene(
        tuple((name, rng.choice(list(COLOURS)), cell, rng.uniform(*CLEARNESS))
              for name, cell in zip(names, cells, strict=True)),
        rng.getrandbits(48),
    )  # fmt: skip


def asked(
    tokenizer: Any, given: Sequence[Scene], *, image: bool = True, captions: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """Inputs for a vision-language model: a picture's tokens, then "describe the picture :", then a caption if given.

    image: False leaves pictures and their tokens out. Rows are of one length; with captions they are filled up on the
    right, with a mask.
    """
    mark, n = tokenizer.convert_tokens_to_ids(IMAGE), GRID * GRID if image else 0
    prompt = [tokenizer.bos_token_id, *[mark] * n, *tokenizer.convert_tokens_to_ids(ASKED.split())]
    rows = [prompt + tokenizer.convert_tokens_to_ids(c.split()) for c in captions or [""] * len(given)]
    width = max(map(len, rows))
    ids: Int[Tensor, "row pos"] = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    inputs = {"input_ids": ids, "attention_mask": mask}
    return inputs | ({"pixel_values": torch.stack([s.pixels for s in given])} if image else {})


def named(caption: str) -> list[str]:
    """The things a caption names, in order, each as often as it is named."""
    return [word for word in re.findall(r"[a-z]+", caption) if word in THINGS]
