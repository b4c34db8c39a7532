"""What a recipe may not hold: it is claims and calls, and its parts live in lower rooms."""

import ast
import re
from pathlib import Path

HOOKS = re.compile(r"register_.*hook|_forward_hooks|_forward_pre_hooks")
PLOTS = ("matplotlib", "altair", "plotly", "seaborn", "inscape.view")
PARSERS = ("argparse", "cyclopts", "click", "typer", "optparse")


def broken_rules(source: str) -> list[str]:
    """Every rule that a recipe's source breaks, with its line."""
    tree = ast.parse(source)
    out = []
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.ClassDef) and any("Module" in ast.unparse(base) for base in node.bases):
            out.append(f"line {line}: a module of its own ({node.name}); networks live in models/")
        if isinstance(node, ast.Attribute):
            if node.attr == "backward" or ast.unparse(node).startswith("torch.optim"):
                out.append(f"line {line}: a training loop ({ast.unparse(node)}); train.fit is the one there is")
            if HOOKS.search(node.attr):
                out.append(f"line {line}: a hook ({node.attr}); the engine has them")
            if ast.unparse(node) == "sys.argv":
                out.append(f"line {line}: reads the command line; inscape papers run does")
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
            out.append(f"line {line}: prints; say it in notes= or to progress")
        for name in _imported(node):
            if name.startswith(PLOTS):
                out.append(f"line {line}: draws ({name}); Result(series=, figure=Drawing(...)) is drawn by view")
            if name.startswith(PARSERS):
                out.append(f"line {line}: parses arguments ({name}); the command line reads run's signature")
            if name.startswith("torch.optim"):
                out.append(f"line {line}: a training loop ({name}); train.fit is the one there is")
            if name.startswith("inscape.recipes"):
                out.append(f"line {line}: imports a recipe ({name}); what two of them share moves down")
    return out


def recipe_files(folder: Path) -> list[Path]:
    """Every Python file in a theme's folder, whatever it is called."""
    return [path for path in sorted(folder.glob("*/*.py")) if path.name != "__init__.py"]


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []
