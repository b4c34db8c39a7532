"""What a recipe says of itself, read from its source without running it, so that a list of papers needs no torch.

`PAPER` and `QUICK` must therefore be written out: a bound that is computed is no bound that was there before the run.
"""

import ast
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from inscape.core.errors import PaperError
from inscape.core.paper import Claim, Paper


@dataclass(frozen=True)
class Source:
    """A recipe as it is written: its paper, its quick settings, the arguments of `run`, and what it calls.

    about: the module's docstring. parameters: argument -> its default as it is written ("" where there is none).
    uses: the public names and methods of inscape that it is made of.
    """

    path: Path
    about: str
    paper: Paper
    quick: dict[str, Any]
    parameters: dict[str, str] = field(default_factory=dict)
    uses: tuple[str, ...] = ()

    @cached_property
    def theme(self) -> str:
        """The folder that it stands in."""
        return self.path.parent.name

    @cached_property
    def summary(self) -> str:
        """The first paragraph of its docstring."""
        return " ".join(self.about.split("\n\n")[0].split())


def read_source(path: Path) -> Source:
    """Read a recipe's source.

    Raises: PaperError with file and line for a recipe without PAPER, QUICK or run, or whose PAPER is not written out.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    values = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    runs = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "run"]
    missing = [name for name in ("PAPER", "QUICK") if name not in values] + ([] if runs else ["run"])
    about = ast.get_docstring(tree) or ""
    if missing or not about:
        raise PaperError(
            f"{path.name} has no {' and no '.join(missing or ['docstring'])}, so it is no recipe.\n"
            f"  a recipe has a docstring, PAPER = Paper(...), QUICK = dict(...) and def run(...) -> Result."
        )
    try:
        paper, quick = _written(values["PAPER"], path), _written(values["QUICK"], path)
    except TypeError as error:
        raise PaperError(f"{path.name}: {str(error).replace('__init__() ', '')}.") from error
    if not isinstance(paper, Paper) or not isinstance(quick, dict):
        raise PaperError(f"{path.name}: PAPER must be a Paper(...) and QUICK a dict(...).")
    return Source(path, about, paper, quick, _parameters(runs[0].args), _uses(tree))


def _written(node: ast.expr, path: Path) -> Any:
    """The value of `Paper(...)`, `Claim(...)`, `dict(...)` and of anything literal."""
    known = {"Paper": Paper, "Claim": Claim, "dict": dict}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in known:
        named = {word.arg: _written(word.value, path) for word in node.keywords if word.arg}
        if len(named) == len(node.keywords):
            return known[node.func.id](*(_written(value, path) for value in node.args), **named)
    if isinstance(node, ast.Tuple | ast.List):
        return tuple(_written(value, path) for value in node.elts)
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise PaperError(
            f"{path.name}, line {node.lineno}: {ast.unparse(node)[:60]!r} must be written out.\n"
            f"  the catalogue reads PAPER and QUICK without running the recipe: use plain numbers and strings."
        ) from None


def _parameters(args: ast.arguments) -> dict[str, str]:
    plain = [*args.posonlyargs, *args.args]
    defaults: list[ast.expr | None] = [None] * (len(plain) - len(args.defaults))
    pairs = [*zip(plain, defaults + args.defaults, strict=True), *zip(args.kwonlyargs, args.kw_defaults, strict=True)]
    return {arg.arg: ast.unparse(default) if default is not None else "" for arg, default in pairs}


def _uses(tree: ast.Module) -> tuple[str, ...]:
    """`ins.run`, `circuits.paths.path_patching`, ...: what comes from inscape, in the order it is met."""
    package, imported, used = "", {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            package = next((a.asname or a.name for a in node.names if a.name == "inscape"), package)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "inscape":
            room = (node.module or "").removeprefix("inscape").lstrip(".")
            imported |= {a.asname or a.name: f"{room}.{a.name}".lstrip(".") for a in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == package:
                used.append((node.lineno, f"ins.{node.attr}"))
            elif node.value.id in imported and not node.attr.startswith("_"):
                used.append((node.lineno, f"{imported[node.value.id]}.{node.attr}"))
        elif isinstance(node, ast.Name) and node.id in imported and isinstance(node.ctx, ast.Load):
            used.append((node.lineno, imported[node.id]))
    names = dict.fromkeys(name for _, name in sorted(used))
    plumbing = ("core.paper.", "core.drawing.")
    modules = {name for name in names if any(other.startswith(f"{name}.") for other in names)}
    return tuple(name for name in names if not name.startswith(plumbing) and name not in modules)
