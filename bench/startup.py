"""What has to happen before the first answer: opening a model, importing the package, asking for help.

Every sample is a process of its own; the two sides take turns.
"""

import subprocess
import sys
import time
from collections.abc import Callable

from bench.common import ROOT, Row, rounds, row, write

OPEN = "import inscape as ins; import torch, transformers; from transformers import AutoModelForCausalLM, AutoTokenizer"
PLAIN = "m = AutoModelForCausalLM.from_pretrained(F, dtype=torch.float32).eval(); t = AutoTokenizer.from_pretrained(F)"
OURS = "m = ins.open('gemma-3-270m', dtype=torch.float32)"

START, STOP = "start = time.perf_counter()", "print('SECONDS', time.perf_counter() - start)"

Seconds = Callable[[], float]


def main() -> None:
    from inscape.models.demo import demo_folder

    folder = str(demo_folder("gemma-3-270m"))
    rows = [opening(folder), importing(), helping()]
    write("startup", rows, model="gemma-3-270m", dtype="float32")


def opening(folder: str) -> Row:
    """The load alone, packages imported beforehand on both sides."""
    code = f"import time; F = {folder!r}\n{OPEN}\n{START}\n{{}}\n{STOP}"
    plain, ours = alternate(lambda: inside(code.format(PLAIN)), lambda: inside(code.format(OURS)))
    return row("start", "open Gemma 3 270M, against transformers' own load", ours, plain, 1.02)


def importing() -> Row:
    """`import inscape` and every public name of the engine, on top of torch."""
    names = "ins.open, ins.run, ins.generate, ins.editing, ins.add"
    code = f"import time, torch\n{START}\nimport inscape as ins; {names}\n{STOP}"
    bare = f"import time\n{START}\nimport torch\n{STOP}"
    torch_alone, ours = alternate(lambda: inside(bare), lambda: inside(code))
    out = row("start", "import inscape on top of torch, against import torch", ours, torch_alone, None)
    return out | in_seconds(out, 0.1)


def helping() -> Row:
    bare, ours = alternate(
        lambda: whole([sys.executable, "-c", "pass"]),
        lambda: whole([sys.executable, "-c", "from inscape.cli.main import main; main(['--help'])"]),
    )
    out = row("start", "inscape --help, against an empty Python", ours, bare, None)
    return out | in_seconds(out, 0.3)


def in_seconds(out: Row, limit: float) -> Row:
    met = out["median_s"] <= limit
    print(f"    {out['median_s']:.3f} s to reach {limit} s: {'met' if met else 'MISSED'}")
    return {"limit_s": limit, "met": met}


def alternate(a: Seconds, b: Seconds, warm_up: int = 1) -> tuple[list[float], list[float]]:
    pairs = [(a(), b()) for _ in range(rounds(7) + warm_up)]
    return [x for x, _ in pairs[warm_up:]], [y for _, y in pairs[warm_up:]]


def inside(code: str) -> float:
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return float(out.split("SECONDS")[1])


def whole(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
