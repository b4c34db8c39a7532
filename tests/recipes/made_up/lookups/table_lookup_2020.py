"""Table lookup: a made-up paper, by which the machinery of recipes is tested.

Claims that a table of squares can be looked up, which shuffled keys cannot.

Cost: none. Differs from the source: there is none.
"""

import inscape as ins
from inscape.core.drawing import Drawing
from inscape.core.nulls import share
from inscape.core.paper import Claim, Paper, Result

PAPER = Paper(
    name="table-lookup",
    title="Looking Things Up in Tables",
    authors="Nobody and Somebody",
    year=2020,
    link="https://example.org/table-lookup",
    control="the same table with its keys shuffled",
    claims=(
        Claim("right", "nearly every square is found", at_least=0.9, control="shuffled keys"),
        Claim("wide", "more than half of the squares are positive", above=0.5, control="shuffled keys"),
        Claim("cheap", "a look costs less than nothing", below=0),
        Claim("silent", "the table says nothing", at_most=0),
    ),
)
QUICK = dict(keys=20)


def run(*, keys: int = 200, seed: int = 0, progress=None) -> Result:
    where = ins.Site("layers.0.resid_post")
    table = {key: key * key for key in range(1, keys + 1)}
    shuffled = dict(zip(reversed(table), table.values(), strict=True))
    right = share([table[key] == key * key for key in table])
    wrong = share([shuffled[key] == key * key for key in table])
    positive = sum(value > 0 for value in table.values()) / keys
    return Result(
        PAPER,
        {"right": right, "wide": positive, "cheap": len(where.name) * 1e-6, "silent": float("nan")},
        controls={"right": wrong.value, "wide": positive},
        series={"squares": list(table.values()), "shuffled": [shuffled[key] for key in table]},
        figure=Drawing("lines", control=("shuffled",), x_title="key", y_title="value"),
        tables={"largest": [{"key": keys, "value": table[keys]}]},
        also={"keys": keys},
        seed=seed,
        notes="nothing was looked up in earnest",
    )
