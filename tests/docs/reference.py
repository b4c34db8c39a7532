"""Write docs/reference.md from the package's own docstrings: `python -m tests.docs.reference`.

Signatures are read from the source, so that they stand on the page as they are written there.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import inscape as ins

PAGE = Path(__file__).parents[2] / "docs" / "reference.md"
GROUPS = {
    "Opening a model": ("open", "Model", "SiteTable", "Site", "verify", "Family", "Stack"),
    "Running it": ("run", "Trace", "generate", "Generation", "editing"),
    "Edits": (
        "Edit", "Direction", "Directions", "fit_directions", "calibrate_strength", "dose_response",
        "add", "scale", "replace", "patch", "ablate", "project_out", "clamp", "skip",
        "skip_layers", "skip_voids", "attend", "edit", "norm_preserving_add", "affine", "when", "Condition", "schedule",
        "mask_experts", "force_experts", "boost_experts", "scale_experts",
    ),
    "Positions": ("span", "tokens", "newest"),
    "Sweeps and metrics": (
        "sweep", "Grid", "Metric", "logit_diff", "probability", "log_prob", "rank", "accuracy", "kl", "loss",
    ),
    "Files": ("save_edits", "load_edits", "merge_edits", "save_readout", "load_readout"),
    "The store": ("record", "Store", "top_k", "project", "import_store"),
    "Plans and the report": ("plan", "report", "steering_report"),
    "Errors": (
        "InscapeError", "SiteError", "ShapeError", "EditError", "NotFiredError", "NotFiniteError", "TokenError",
        "InputError", "ModelError", "FileError", "PaperError", "NotFittedError", "NotConvergedError",
        "MissingExtraError",
    ),
}  # fmt: skip
MADE_BY_HAND = (
    "Direction",
    "Directions",
    "Edit",
    "Family",
    "Stack",
)  # other classes come out of functions: no signature is needed
OF_THE_ENGINE = (
    "main_prefixes",
    "compile_places",
    "check_ready",
    "unknown",
    "with_status",
)  # members of no use to users
WIDTH = 96
LEAD = """# Reference

Every public name, from the docstrings. `import inscape as ins` loads nothing heavy; a name is imported when it is
first used. The version is `ins.__version__`.
"""


def reference() -> str:
    """The page as Markdown."""
    parts, seen = [LEAD], []
    for group, names in GROUPS.items():
        rows = []
        for name in names:
            value = getattr(ins, name)
            said = marked(summary(value)).replace("|", "\\|")
            if group == "Errors":
                rows.append(f"| `{name}` | {said} | `{_builtin(value)}` |\n")
                continue
            slug = name.lower()
            rows.append(f"| [`{name}`](#{slug}{'-1' if slug in seen else ''}) | {said} |\n")
            seen.append(slug)
        if group == "Errors":
            parts.append(f"## {group}\n\n| name | what it is | also a |\n|---|---|---|\n{''.join(rows)}")
            continue
        parts.append(f"## {group}\n\n| name | what it is |\n|---|---|\n{''.join(rows)}")
        parts += [entry(name, getattr(ins, name)) for name in names]
    return "\n".join(parts)


def entry(name: str, value: Any) -> str:
    """One name: heading, signature, docstring, and for a class what it has."""
    parts = [f"### `{name}`\n"]
    if not inspect.isclass(value) or name in MADE_BY_HAND:
        parts.append(f"```py\n{signature(name, value)}\n```\n")
    arguments = [re.split(r"[:= ]", argument.lstrip("*"))[0] for argument in arguments_of(value)]
    parts.append(paragraphs(inspect.getdoc(value) or "", arguments))
    if inspect.isclass(value) and (members := _members(value)):
        parts.append("It has\n\n" + "".join(f"- `{member}`: {marked(said)}\n" for member, said in members))
    return "\n".join(parts)


def signature(name: str, value: Any) -> str:
    """How it is called, with annotations and defaults as the source has them; one argument a line where it is long."""
    arguments, node = arguments_of(value), _node(value)
    returned = f" -> {ast.unparse(node.returns)}" if isinstance(node, ast.FunctionDef) and node.returns else ""
    line = f"ins.{name}({', '.join(arguments)}){returned}"
    return line if len(line) <= WIDTH else f"ins.{name}(\n    " + ",\n    ".join(arguments) + f",\n){returned}"


def arguments_of(value: Any) -> list[str]:
    """`name: type = default` of every argument of a function, or of every public field of a class."""
    node = _node(value)
    if isinstance(node, ast.FunctionDef):
        return _arguments(node.args)
    assert isinstance(node, ast.ClassDef)
    return [_written(field) for field in node.body if isinstance(field, ast.AnnAssign)]


def summary(value: Any) -> str:
    """The first sentence of a docstring."""
    text = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())
    first = re.match(r".*?[^\s.]\.(?=\s|$)", text)  # a stop after a space is a product, inside a word a name
    return first[0] if first else text


def paragraphs(docstring: str, arguments: Sequence[str] = ()) -> str:
    """A docstring as Markdown: what is said of an argument (`name: ...`), of cost and of errors becomes a list item."""
    word = "|".join(map(re.escape, [*arguments, "Cost", "Raises", "Places"]))
    label = rf"(?:{word})(?:, (?:{word}))*"
    out = []
    for block in docstring.split("\n\n"):
        block = re.sub(rf"(?<=[.;])\s+(?={label}: )", "\n", block)
        plain: list[str] = []
        items: list[str] = []
        for line in block.splitlines():
            said = re.match(rf"({label}): (.*)", line)
            if said:
                items.append(f"- **{said[1]}**: {marked(said[2])}")
            elif items:
                items[-1] += " " + marked(line.strip())
            else:
                plain.append(marked(line))
        listed = [
            textwrap.fill(x, 120, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False) for x in items
        ]
        out += ["\n".join(part) for part in (plain, listed) if part]
    return "\n\n".join(out) + "\n"


def marked(text: str) -> str:
    """Signs that Markdown would take for its own, escaped outside of code."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(piece if piece.startswith("`") else re.sub(r"([*<$])", r"\\\1", piece) for piece in pieces)


def _builtin(error: type) -> str:
    return next(base.__name__ for base in error.__mro__ if base.__module__ == "builtins")


def _node(value: Any) -> ast.stmt:
    return ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(value)))).body[0]


def _arguments(args: ast.arguments) -> list[str]:
    """Each argument as `name: type = default`, with the marks of positional and keyword ones between."""
    plain = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(plain) - len(args.defaults)) + list(args.defaults)
    said = [_argument(arg, default) for arg, default in zip(plain, defaults, strict=True)]
    if args.posonlyargs:
        said.insert(len(args.posonlyargs), "/")
    if args.vararg:
        said.append(f"*{_argument(args.vararg, None)}")
    elif args.kwonlyargs:
        said.append("*")
    said += [_argument(arg, default) for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True)]
    return [*said, f"**{_argument(args.kwarg, None)}"] if args.kwarg else said


def _argument(arg: ast.arg, default: ast.expr | None) -> str:
    typed = f"{arg.arg}: {ast.unparse(arg.annotation)}" if arg.annotation else arg.arg
    return _quoted(typed if default is None else f"{typed} = {ast.unparse(default)}")


def _written(field: ast.AnnAssign) -> str:
    return _quoted(re.sub(r"field\(default_factory=dict.*\)$", "{}", ast.unparse(field)))


def _quoted(text: str) -> str:
    return text.replace("'", '"')


def _members(value: type) -> list[tuple[str, str]]:
    """Public methods and properties of the class itself that have a docstring, with its first sentence."""
    found = []
    for name, member in vars(value).items():
        inner = getattr(member, "fget", None) or getattr(member, "func", None) or member
        inner = inner.__func__ if isinstance(inner, classmethod | staticmethod) else inner
        if not name.startswith("_") and name not in OF_THE_ENGINE and inspect.isfunction(inner) and inner.__doc__:
            found.append((name if inner is not member else f"{name}()", summary(inner)))
    return found


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
