"""Kinds of heads that are known by what they write: the token they look at, or what comes after it in its order.

A head's weights are applied to what its norm gives at a token's places in short rows, so that what earlier layers have
made of the token counts. Where a head does not read the stream, or there are no rows, the token stands alone.
"""

from collections.abc import Sequence

from inscape.circuits.heads.looking import prefix
from inscape.circuits.heads.measured import Measured, all_of, beside
from inscape.circuits.heads.probes import Probes
from inscape.circuits.weights import relations
from inscape.circuits.weights.head import heads
from inscape.circuits.weights.relations import Relation, relation_score
from inscape.circuits.weights.token_map import token_map
from inscape.core.errors import ModelError
from inscape.core.progress import tell
from inscape.tasks.frames import framed
from inscape.tasks.ordinals import ordinals

UNIT = "share of tokens"


def copying(probes: Probes) -> Measured:
    """Of the probe's tokens, how many promote themselves most when the head looks at them; beside shuffled targets."""
    first = probes.ids[:, : 1 + probes.ids.shape[1] // 2]  # every token for the first time
    tokens = first[:, 1:].unique().tolist()
    itself = relations.custom("copy", {"tokens": {t: t for t in tokens}})
    return probes.once("copying", lambda: _follows(probes, itself, first.tolist()))


def successor(probes: Probes) -> Measured:
    """Of members of ordered classes, how many promote the next one most within their class; beside shuffled targets."""
    relation = relations.successor(ordinals(probes.model))
    return _follows(probes, relation, framed(probes.model, relation.tokens.tolist()))


def induction(probes: Probes) -> Measured:
    """Looks at what followed the same token, and copies what it looks at; scored by the first."""
    parts = {"prefix matching": prefix(probes), "copying": copying(probes)}
    return all_of(parts["prefix matching"], parts)


def _follows(probes: Probes, relation: Relation, rows: Sequence[Sequence[int]]) -> Measured:
    tell(probes.progress, f"{relation.name} by the weights", 0.3)
    every = heads(probes.model)
    try:
        made = token_map(probes.model, every, relation.tokens, pre="context", inputs=rows)
    except ModelError:
        made = token_map(probes.model, every, relation.tokens)
    found = relation_score(made, relation, draws=probes.draws, seed=probes.seed)
    names = [(h.layer, h.head) for h in every]
    return beside(probes.array(names, found.score), probes.array(names, found.null), UNIT, notes=(made.how,))
