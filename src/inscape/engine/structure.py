"""What the shape of an unknown module says: which list holds the repeated blocks, what comes before and after it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

NORM_NAMES = ("norm", "ln_", "_ln")
OUT_NAMES = ("o_proj", "out_proj", "c_proj", "dense", "wo", "proj", "out_lin", "to_out", "out", "fc2", "down_proj")


@dataclass(frozen=True)
class Shape:
    """One list of blocks with the modules around it, by path; empty where there is none."""

    blocks: str
    prefix: str
    embed: str
    final_norm: str


def shapes_of(root: nn.Module) -> tuple[Shape, ...]:
    """The stacks of a module: the outermost list with most parameters, or an encoder's and a decoder's."""
    lists = _outermost(root)
    if not lists:
        return ()
    best = max(lists, key=lambda n: n_params(lists[n]))
    encoder = next((n for n in lists if "encoder" in n.split(".") and "decoder" not in n.split(".")), None)
    decoder = next((n for n in lists if "decoder" in n.split(".")), None)
    if encoder is not None and decoder is not None:
        return tuple(_shape(root, path, prefix) for path, prefix in ((encoder, "encoder."), (decoder, "decoder.")))
    return (_shape(root, best, ""),)


def n_params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def is_norm(path: str, module: nn.Module) -> bool:
    name = path.rsplit(".", 1)[-1].lower()
    return (
        "norm" in type(module).__name__.lower()
        or "norm" in name
        or bool(re.match(r"ln(_|\d|$)", name))
        or name.endswith("_ln")
    )


def is_linear(module: nn.Module) -> bool:
    """A projection: nn.Linear, GPT-2's Conv1D, a quantised linear layer."""
    weight = getattr(module, "weight", None)
    is_named = "linear" in type(module).__name__.lower() or type(module).__name__ == "Conv1D"
    return is_named and isinstance(weight, Tensor) and not isinstance(module, nn.Embedding)


def widths(module: nn.Module) -> tuple[int, int]:
    """(in, out) of a projection."""
    if isinstance(getattr(module, "in_features", None), int):
        return int(module.in_features), int(module.out_features)  # type: ignore[arg-type]
    rows, columns = module.weight.shape  # type: ignore[union-attr,misc]
    return (int(rows), int(columns)) if type(module).__name__ == "Conv1D" else (int(columns), int(rows))


def head_of(root: nn.Module, blocks: Iterable[str]) -> str | None:
    """The last projection outside the blocks; with a known vocabulary, the last one that is as wide."""
    config = getattr(root, "config", None)
    vocab = getattr(config, "vocab_size", None)
    taken = tuple(f"{b}." if b else "" for b in blocks)
    outside = [n for n, m in root.named_modules() if is_linear(m) and not n.startswith(taken)]
    if not outside or "" in taken:
        return None
    wide = [n for n in outside if widths(root.get_submodule(n))[1] == vocab]
    return (wide or outside)[-1]


def _outermost(root: nn.Module) -> dict[str, nn.Module]:
    found: dict[str, nn.Module] = {}
    if isinstance(root, nn.Sequential):
        inner = [
            n for n, m in root.named_modules() if n and isinstance(m, (nn.ModuleList, nn.Sequential)) and _repeats(m)
        ]
        if not inner:
            return {"": root}
    for name, module in root.named_modules():
        if any(name.startswith(f"{outer}.") for outer in found):
            continue
        if name and isinstance(module, (nn.ModuleList, nn.Sequential)) and len(module) and _repeats(module):
            found[name] = module
    largest = max((n_params(m) for m in found.values()), default=0)
    return {n: m for n, m in found.items() if n_params(m) > 0.02 * largest}


def _repeats(module: nn.Module) -> bool:
    """Blocks have parts of their own; a list of plain layers is no list of blocks."""
    children = list(module.children())
    deep = [c for c in children if any(True for _ in c.children())]
    return len(deep) == len(children) > 0


def _shape(root: nn.Module, blocks: str, prefix: str) -> Shape:
    parent = blocks.rpartition(".")[0]
    around = root.get_submodule(parent) if parent else root
    names = [n for n, _ in around.named_children()]
    own = blocks.rpartition(".")[2]
    after = names[names.index(own) + 1 :] if own in names else []
    join = lambda n: f"{parent}.{n}" if parent else n  # noqa: E731
    norm = next((n for n in after if is_norm(n, around.get_submodule(n))), None)
    if norm is None:
        norm = next(
            (
                n
                for n in names
                if n != own and re.search(r"final|last|^ln_f|^norm$", n) and is_norm(n, around.get_submodule(n))
            ),
            None,
        )
    return Shape(blocks, prefix, _embedding(root, blocks, parent), join(norm) if norm else "")


def _embedding(root: nn.Module, blocks: str, parent: str) -> str:
    found = [
        (n, m)
        for n, m in root.named_modules()
        if isinstance(m, nn.Embedding) and (not blocks or not n.startswith(f"{blocks}."))
    ]
    near = [(n, m) for n, m in found if n.startswith(f"{parent}.")] or found
    vocab = getattr(getattr(root, "config", None), "vocab_size", None)

    def rank(item: tuple[str, nn.Embedding]) -> tuple[bool, bool, int]:
        path, table = item
        named = bool(re.search(r"word|tok|wte", path)) and not re.search(r"pos|type", path.rsplit(".", 1)[-1])
        return table.num_embeddings == vocab, named, table.num_embeddings

    own = [item for item in near if rank(item)[0]] or [item for item in found if rank(item)[0]] or near
    return max(own, key=rank)[0] if own else ""
