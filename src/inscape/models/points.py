"""From a family's table to the modules of one model: where exactly every named activation is met."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from inscape.models import meanings
from inscape.models.family import Family, Stack, Tap, Taps


@dataclass(frozen=True, eq=False)
class Point:
    """One site of one model: the module where it is met, and how to see it in what the module takes or gives.

    kind: "module" (a module boundary), "attention" (inside the attention function), "head_out" (from z and the output
        projection), "expert" (one expert of a stack), "state" (replayed from what a recurrent mixer shows).
    after: for head_out, the point of z; for a state, that of its mixer. index: for an expert, its number.
    inside: which of the attention function's values; for a state, the kind of recurrence. heads: entries of the head
        axis.
    stream: for a middle of the stream that is seen where a norm reads it, the block past that norm: an edit there must
        reach the residual branch too.
    inside, calls: for attention, which of its tensors; and whether it is seen in the torch calls of the module's
        forward rather than in transformers' attention function.
    rules: what the model does to the value after the module, in order (soft cap, multipliers of the head).
    """

    name: str
    kind: str
    module: nn.Module
    path: str
    axes: tuple[str, ...]
    meaning: str
    prefix: str = ""
    side: str = "out"
    index: int | None = None
    part: tuple[int, int] | None = None
    span: tuple[int | None, int | None] | None = None
    scale: float | None = None
    rules: tuple[tuple[str, float], ...] = ()
    heads: int | None = None
    inside: str = ""
    calls: bool = False
    after: "tuple[Point, ...]" = ()
    stream: nn.Module | None = None
    status: str = "table"

    @property
    def shape(self) -> str:
        return " ".join(self.axes)


@dataclass(frozen=True, eq=False)
class Block:
    """One repeated block: its name ("layers.3"), its module and the points inside it by short name."""

    name: str
    module: nn.Module
    points: dict[str, Point]


@dataclass(frozen=True, eq=False)
class Resolved:
    """A family's table on one model: every point in forward order, and the blocks of each stack."""

    points: dict[str, Point]
    stacks: tuple[tuple[Stack, tuple[Block, ...]], ...]
    missing: dict[str, str]


class Modules:
    """Modules by path, found also when the model is bare (leading names dropped) or wrapped (names added)."""

    def __init__(self, root: nn.Module) -> None:
        self.by_name = dict(root.named_modules())
        self._memo: dict[str, str | None] = {}

    def find(self, path: str) -> str | None:
        """The full name of the module that `path` means, or None."""
        if path not in self._memo:
            self._memo[path] = self._search(path)
        return self._memo[path]

    def _search(self, path: str) -> str | None:
        parts = path.split(".")
        for dropped in range(len(parts)):
            tail = ".".join(parts[dropped:])
            if tail in self.by_name:
                return tail
            if dropped == len(parts) - 1 and dropped > 0:
                return None  # a lone last name ("layers", "norm") only counts at the root
            wrapped = [name for name in self.by_name if name.endswith("." + tail)]
            if wrapped and (dropped == 0 or "." in tail):
                return min(wrapped, key=len)
        return None


def resolve(root: nn.Module, family: Family) -> Resolved:
    """Every point of the family's table that this module has."""
    modules = Modules(root)
    points: dict[str, Point] = {}
    stacks: list[tuple[Stack, tuple[Block, ...]]] = []
    found: set[str] = set()
    for stack in family.stacks:
        full = modules.find(stack.blocks)
        if full is None or full in found:  # a lone encoder is not a decoder too
            continue
        found.add(full)
        config = _stack_config(root, stack)
        blocks = tuple(_blocks(modules, full, stack, config))
        stacks.append((stack, blocks))
        if (embed := _root_point(modules, stack.embed, stack.prefix, "embed", config)) is not None:
            points[embed.name] = embed
        for block in blocks:
            points |= {p.name: p for p in block.points.values()}
        if (norm := _root_point(modules, stack.final_norm, stack.prefix, "final_norm", config)) is not None:
            points[norm.name] = norm
    logits = _root_point(modules, family.logits, "", "logits", getattr(root, "config", None))
    if logits is not None:
        points[logits.name] = replace(logits, rules=_rules(family, root))
    if points and stacks and all("out" in s.sites for s, _ in stacks):
        points = {n: _image_axes(p) for n, p in points.items()}
    return Resolved(points, tuple(stacks), dict(family.notes))


def _image_axes(point: Point) -> Point:
    if point.name in ("embed", "final_norm") or point.name.endswith(".embed"):
        return replace(point, axes=("batch", "channel", "height", "width"))
    return replace(point, axes=("batch", "class")) if point.name == "logits" else point


def _rules(family: Family, root: nn.Module) -> tuple[tuple[str, float], ...]:
    """(what, number) for every rule whose number this model's configuration sets."""
    config: Any = getattr(root, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    pairs = (rule.split(":") for rule in family.logits_after)
    found = ((what, getattr(config, name, None)) for what, name in pairs)
    return tuple((what, float(number)) for what, number in found if number is not None)


def _stack_config(root: nn.Module, stack: Stack) -> Any:
    config = getattr(root, "config", None)
    return getattr(config, stack.config, config) if stack.config else config


def _blocks(modules: Modules, full: str, stack: Stack, config: Any) -> Iterator[Block]:
    holder = modules.by_name[full]
    if stack.inner is not None:
        for i, (name, _stage) in enumerate(holder.named_children()):
            inside = modules.by_name.get(f"{full}.{name}.{stack.inner}" if stack.inner else f"{full}.{name}")
            if inside is None:
                continue
            path = f"{full}.{name}.{stack.inner}" if stack.inner else f"{full}.{name}"
            for j, (child, _) in enumerate(inside.named_children()):
                yield _block(modules, f"{path}.{child}", f"{stack.prefix}stages.{i}.blocks.{j}", stack, config)
        return
    for i, (child, _) in enumerate(holder.named_children()):
        yield _block(modules, f"{full}.{child}".removeprefix("."), f"{stack.prefix}layers.{i}", stack, config)


def _block(modules: Modules, path: str, name: str, stack: Stack, config: Any) -> Block:
    points: dict[str, Point] = {}

    def sub(inner: str) -> str | None:
        whole = f"{path}.{inner}" if inner else path
        return whole if whole in modules.by_name else None

    calls = _first_module(stack.attention_calls, sub)
    attention = _first_module(stack.attention, sub) or calls
    cross = _first_module(stack.cross, sub)
    for short, taps in stack.sites.items():
        found = _first_tap(taps, sub)
        if found is None or (short.startswith("router") and found[1].path == ""):
            continue
        tap, module_path = found[1], found[0]
        module = modules.by_name[module_path]
        axes, meaning = meanings.of(short)
        scale = _scale(tap.scale, module, modules.by_name[path], config)
        heads = None
        if short.endswith(".z") or (short.endswith((".q", ".k", ".v")) and "head" in axes):
            owner = modules.by_name.get((cross if short.startswith("cross") else attention) or "", module)
            heads = head_count(owner, module, stack, config, kv=short.endswith((".k", ".v")))
            if heads is None:
                continue
        middle = short == "resid_mid" and tap.side == "in" and stack.adds == "sequential"
        points[short] = Point(
            f"{name}.{short}", "module", module, _at(module_path, tap), tuple(axes.split()), meaning, stack.prefix,
            tap.side, tap.index, tap.part, _span(tap, module, modules.by_name[path], config), scale, heads=heads,
            stream=modules.by_name[path] if middle else None,
        )  # fmt: skip
    for inner, block_path in (("attn", attention), ("cross", cross)):
        if block_path is None:
            continue
        watched = block_path == calls
        for kind in stack.attention_names if watched else meanings.ATTENTION:
            axes, meaning = meanings.of(f"{inner}.{kind}")
            points.setdefault(
                f"{inner}.{kind}",
                Point(
                    f"{name}.{inner}.{kind}", "attention", modules.by_name[block_path], block_path, tuple(axes.split()),
                    meaning, stack.prefix, inside=kind, calls=watched,
                ),
            )  # fmt: skip
    _head_out(points, name, stack, modules)
    _state(points, name, stack)
    _experts(points, name, stack, modules, sub)
    return Block(name, modules.by_name[path], dict(sorted(points.items(), key=lambda item: meanings.order(item[0]))))


def _head_out(points: dict[str, Point], name: str, stack: Stack, modules: Modules) -> None:
    z, out = points.get("attn.z"), points.get("attn_out")
    if z is None or out is None or not hasattr(z.module, "weight") or z.side != "in":
        return
    axes, meaning = meanings.of("attn.head_out")
    points["attn.head_out"] = Point(
        f"{name}.attn.head_out", "head_out", out.module, out.path, tuple(axes.split()), meaning, stack.prefix, out.side,
        out.index, out.part, out.span, out.scale, heads=z.heads, after=(z,),
    )  # fmt: skip


def _state(points: dict[str, Point], name: str, stack: Stack) -> None:
    """Where the output projection is called, everything the state is made of has been seen."""
    y, mixer = points.get("ssm.y"), points.get("ssm_out")
    if not stack.recurrence or y is None or mixer is None:
        return
    axes, meaning = meanings.STATES[stack.recurrence], meanings.of("ssm.state")[1]
    points["ssm.state"] = Point(
        f"{name}.ssm.state", "state", y.module, y.path, tuple(axes.split()), meaning, stack.prefix, y.side,
        inside=stack.recurrence, after=(mixer,),
    )  # fmt: skip


def _experts(points: dict[str, Point], name: str, stack: Stack, modules: Modules, sub: Any) -> None:
    path = _first_module(stack.experts, sub)
    if path is None:
        return
    module = modules.by_name[path]
    count = getattr(module, "num_experts", None) or getattr(module, "n_experts", None)
    if count is None:
        stacked = [p for p in module.parameters(recurse=False) if p.ndim == 3]
        count = stacked[0].shape[0] if stacked else 0
    axes, meaning = meanings.of("experts.0.out")
    for e in range(int(count)):
        points[f"experts.{e}.out"] = Point(
            f"{name}.experts.{e}.out", "expert", module, path, tuple(axes.split()), meaning, stack.prefix, index=e
        )


def head_count(attention: nn.Module, projection: nn.Module, stack: Stack, config: Any, kv: bool) -> int | None:
    """Heads on the head axis: from the attention module, else from the configuration."""
    names = (*(stack.kv_heads if kv else ()), *stack.heads)
    for owner in (attention, getattr(attention, "config", None), config):
        for attribute in names:
            value = getattr(owner, attribute, None)
            if isinstance(value, int) and value > 0:
                return value
    return None


def _root_point(modules: Modules, taps: Taps | None, prefix: str, short: str, config: Any) -> Point | None:
    if taps is None:
        return None
    found = _first_tap(taps, modules.find)
    if found is None:
        return None
    path, tap = found
    axes, meaning = meanings.ROOT[short]
    return Point(
        prefix + short, "module", modules.by_name[path], _at(path, tap), tuple(axes.split()), meaning, prefix, tap.side,
        tap.index, tap.part, scale=_scale(tap.scale, modules.by_name[path], modules.by_name[path], config),
    )  # fmt: skip


def _first_tap(taps: Taps, find: Any) -> tuple[str, Tap] | None:
    for text in (taps,) if isinstance(taps, str) else taps:
        tap = Tap.parse(text)
        path = find(tap.path)
        if path is not None and (tap.needs is None or find(tap.needs) is not None):
            return path, tap
    return None


def _first_module(taps: Taps | None, find: Any) -> str | None:
    found = _first_tap(taps, find) if taps is not None else None
    return found[0] if found else None


def _scale(name: str | None, module: nn.Module, block: nn.Module, config: Any) -> float | None:
    if name is None:
        return None
    for owner in (module, block, config):
        value = getattr(owner, name, None)
        if isinstance(value, (int, float)):
            return float(value)
    raise ValueError(f"the table asks for {name!r}, which neither the module nor the configuration has")


def _span(tap: Tap, module: nn.Module, block: nn.Module, config: Any) -> tuple[int | None, int | None] | None:
    """Bounds of a slice of the last axis as numbers; names are those of the module, block or configuration."""
    if tap.span is None:
        return None
    owners = (module, *block.children(), block, config)

    def number(text: str) -> int | None:
        if not text:
            return None
        sign, name = (-1, text[1:]) if text.startswith("-") else (1, text)
        if name.isdigit():
            return sign * int(name)
        return sign * next(int(v) for o in owners if isinstance(v := getattr(o, name, None), int))

    return number(tap.span[0]), number(tap.span[1])


def _at(path: str, tap: Tap) -> str:
    extra = f"@{tap.index}" if tap.index is not None else ""
    part = f"[{tap.part[0]}/{tap.part[1]}]" if tap.part else f"[{tap.span[0]}:{tap.span[1]}]" if tap.span else ""
    return f"{path}{':in' if tap.side == 'in' else ''}{extra}{part}"
