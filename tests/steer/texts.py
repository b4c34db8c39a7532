"""Texts as token ids for the small model: two sides that end on different words, and some that do not differ."""

import torch


def two_sides(n: int = 12, *, seed: int = 0, paired: bool = True) -> tuple[list[list[int]], list[list[int]]]:
    """n texts a side of unlike length; positive ones end on one of a few tokens, negative ones on others."""
    draw = torch.Generator().manual_seed(seed)
    sides: tuple[list[list[int]], list[list[int]]] = ([], [])
    for _ in range(n):
        body = _ids(draw)
        for side, words in zip(sides, ((5, 6, 7), (50, 51, 52)), strict=True):
            end = words[int(torch.randint(0, 3, (1,), generator=draw))]
            side.append([*(body if paired else _ids(draw)), end])
    return sides


def one_side(n: int = 24, *, seed: int = 0) -> tuple[list[list[int]], list[list[int]]]:
    """Two lists drawn in the same way: nothing tells them apart."""
    draw = torch.Generator().manual_seed(seed)
    texts = [_ids(draw) for _ in range(2 * n)]
    return texts[:n], texts[n:]


def two_dialects(n: int = 24, *, seed: int = 0) -> tuple[list[list[int]], list[list[int]]]:
    """n texts a side of unlike length, in words that the other side does not have: unlike wherever one looks."""
    draw = torch.Generator().manual_seed(seed)
    sides = [[[low + i % 31 for i in _ids(draw)] for _ in range(n)] for low in (1, 32)]
    return sides[0], sides[1]


def _ids(draw: torch.Generator) -> list[int]:
    length = int(torch.randint(3, 11, (1,), generator=draw))
    return torch.randint(1, 64, (length,), generator=draw).tolist()
