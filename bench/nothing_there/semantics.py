"""Concepts, priors and errors that have nothing to do with the answers."""

import torch

import inscape as ins
from bench.nothing_there.case import Case, found, paired, said, texts, tokens, told
from inscape.read.behaviour.prior import prior_pull
from inscape.read.localize import correlate
from inscape.read.semantics import binned_errors, coherence, spurious_spans, support_matrix
from inscape.read.semantics.support import Support

LAST = "layers.2.resid_post"


def supported(seed: int, effect: float) -> float:
    """What a concept does for a target after the last layer, beside a change as long along a random direction."""
    model, ids = told(seed), tokens(seed, 20, 2)
    concepts, targets = tokens(seed + 500, 2, 20)
    if effect:  # the target is read from the concept's direction, and the concept is what is said
        concepts = said(model, ids)
        targets = (concepts + 1) % 256
        with torch.no_grad():
            head = model.module.lm_head.weight
            head[targets] = head[concepts] + 0.3 * head[targets]
    made = support_matrix(model, ids, [[int(c)] for c in concepts], targets, layers=[LAST], seed=seed)
    assert made.control is not None
    own, other = (torch.stack([v[0, 0, 0] for v in side]) for side in (made.values, made.control))
    return paired(own, other, seed)


def coherent(seed: int, effect: float) -> float:
    """Errors that go with the share of support that is the context's, in five bins."""
    g = torch.Generator().manual_seed(seed)
    values = torch.rand(60, 2, 6, 1, generator=g)
    ids, target = torch.arange(6), torch.tensor([9])
    rows = range(60)
    support = Support(("0", "1"), tuple(values), None, (target.double(),) * 60, (ids,) * 60, (target,) * 60)
    score = coherence(support, [[0, 1, 2] for _ in rows], [[3, 4, 5] for _ in rows])
    wrong = torch.rand(60, generator=g).double() + 8 * effect * (0.5 - score) < 0.5
    return binned_errors(score.float(), wrong, n_bins=5, n=199, seed=seed).p


def spans(seed: int, effect: float) -> float:
    """The stretch that a random token hangs on most, beside the same of another; planted: what the net says."""
    model = told(seed, carry=2.0)
    ids = tokens(seed, 10, 6)
    given = tokens(seed + 500, 10, 1)[:, 0].tolist()
    drops, others = [], []
    for i, text in enumerate(texts(ids)):
        made = spurious_spans(model, text, None if effect else given[i], words=(2,), seed=10 * seed + i)
        drops.append(max(s.drop for s in made))
        others.append(max(s.other for s in made))
    return paired(torch.tensor(drops), torch.tensor(others), seed)


def of_pull(what: str) -> Case:
    """Right where the right answer is common, wrong towards common ones, sure of what is common?"""

    def case(seed: int, effect: float) -> float:
        g = torch.Generator().manual_seed(seed)
        due, given = torch.randn(80, generator=g), torch.randn(80, generator=g)
        if effect:  # each answer given is a little commoner than the one that was due
            given = due + 0.7 + 0.3 * given
        right = torch.rand(80, generator=g) < torch.sigmoid(2 * effect * due)
        given = torch.where(right, due, given)
        sure = torch.randn(80, generator=g) + 2 * effect * given
        pull = prior_pull(due, right, given, log_prob_of_given=sure, n=99, seed=seed)
        assert pull.slope is not None
        assert pull.asymmetry is not None
        assert pull.asymmetry_null is not None
        assert pull.lift is not None
        assert pull.echo is not None
        if what == "slope":
            return pull.slope.p
        if what == "echo":
            return pull.echo.p
        if what == "lift":
            return found(pull.lift.excludes(0.0))
        return found(pull.asymmetry.low > pull.asymmetry_null)

    return case


def of_localized(per_item: bool) -> Case:
    """A quantity of six candidates beside what any stage says of them, corrected; planted: what the last one says."""

    def case(seed: int, effect: float) -> float:
        model, ids = told(seed), tokens(seed, 10, 2)
        asked = tokens(seed + 500, 1, 6)[0]
        target = torch.randn(10 if per_item else 1, 6, generator=torch.Generator().manual_seed(seed))
        if effect:
            scores = ins.run(model, ids, output="last").output.logits[:, -1][:, asked].detach()
            target = scores if per_item else scores.mean(0, keepdim=True)
            target = target + 0.1 * torch.randn(target.shape, generator=torch.Generator().manual_seed(seed))
        made = correlate(model, ids, asked.tolist(), {"it": target if per_item else target[0]}, n=199, seed=seed)
        return float(made.p["it"].min())

    return case


CASES: dict[str, Case] = {
    "support_matrix, beside a change along a random direction": supported,
    "coherence and binned_errors, errors shuffled": coherent,
    "spurious_spans, beside another token": spans,
    "prior_pull, slope with x shuffled": of_pull("slope"),
    "prior_pull, asymmetry above its null": of_pull("asymmetry"),
    "prior_pull, lift without 0": of_pull("lift"),
    "prior_pull, echo": of_pull("echo"),
    "localize.correlate, a number a candidate, any stage": of_localized(False),
    "localize.correlate, a number an item and candidate, any stage": of_localized(True),
}
