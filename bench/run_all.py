"""Every benchmark in turn, then the table in the README. `python -m bench.run_all [names]`."""

import importlib
import os
import sys

NAMES = (
    "engine_tiny",
    "engine_gemma",
    "sweep",
    "startup",
    "memory",
    "store",
    "similarity",
    "probes",
    "out_of_core",
    "out_of_core_lens",
    "false_positives",
    "lens",
    "signals",
    "steering_fit",
    "steering_generate",
)


def main(names: list[str]) -> None:
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"note: the load of this machine is {load:.1f}; numbers of a busy machine are not results")
    for name in names or NAMES:
        print(f"== bench/{name}.py", flush=True)
        importlib.import_module(f"bench.{name}").main()
    print("== bench/table.py")
    importlib.import_module("bench.table").main()


if __name__ == "__main__":
    main(sys.argv[1:])
