"""Hybrid thinking: a base model that is told when to do what it can do anyway comes near its thinking version.

A small net that slips in products, and can mend a slip but says so at random, is steered by the behaviour of the same
net tuned to mend slips where they are. Kinds of sentences are found without labels in the tuned net's states; a vector
for each is trained in the base; while both write, the tuned net's kind chooses the vector where they disagree, and its
likelihood the proposal. The selection leaks what it knows, so the base's own samples under the same selection stand
beside, and so do a general vector alone, random kinds and random vectors.
Cost: some minutes. Differs from the source: nets whose difference is planted in place of reasoning models, states of
the token before a sentence in place of the sentence's mean (the decoder asks at such a token), vectors that act on all
tokens, and no judge. Bounds are those of the page, written before any run of this file.
"""

from typing import Any

import torch

import inscape as ins
from inscape.core.agreement import adjusted_mutual_information
from inscape.core.drawing import Drawing
from inscape.core.nulls import bootstrap, random_directions
from inscape.core.paper import Claim, Paper, Result
from inscape.core.progress import tell
from inscape.read.behaviour.sentences import Sentences, sentence_states
from inscape.read.behaviour.taxonomy import BehaviourTaxonomy
from inscape.steer.hybrid import gap_recovered, hybrid_generate
from inscape.steer.optimise import optimise_direction
from inscape.steer.targets import target_losses
from inscape.tasks.second_thoughts import kind_of, problems, right

PAPER = Paper(
    name="hybrid-thinking",
    title="Base Models Know How to Reason, Thinking Models Learn When",
    authors="Venhoff, Arcuschin, Torr, Conmy, Nanda",
    year=2025,
    link="https://arxiv.org/abs/2510.07364",
    code="https://github.com/cvenhoff/thinking-llms-interp",
    control="shuffled states, vectors in another order, a general vector alone, random kinds, random vectors, samples",
    claims=(
        Claim("kinds", "latents found without labels are the kinds of sentences: adjusted mutual information on other "
              "problems", at_least=0.5, control="a taxonomy of states with shuffled units"),
        Claim("own_kind", "of six vectors, at least four lower the loss of their own kind's sentences most, and more "
              "than a random one", at_least=4, control="the vectors in another order"),
        Claim("above_base", "steered by the thinking net's kinds the base is right more often", above=0,
              control="random vectors, the same selection"),
        Claim("beyond_ablations", "it recovers more of the gap than the general vector alone, random kinds and random "
              "vectors, the best of them", above=0),
        Claim("beyond_samples", "and is right more often than its own samples under the same selection", above=0),
    ),
)  # fmt: skip
QUICK = dict(traces=24, tested=4, steps=4, each=6, longest=40)
COEFFICIENTS = (0.5, 0.75, 1.0)


def run(base="toy-thinker-base", *, thinker: str = "toy-thinker", traces: int = 300, tested: int = 60, latents: int = 6,
        steps: int = 60, each: int = 40, longest: int = 90, seed: int = 0, progress=None) -> Result:  # fmt: skip
    base = ins.open(base) if isinstance(base, str) else base
    driver = ins.open(thinker)
    site = f"layers.{len(driver.blocks) - 2}.resid_post"
    tell(progress, "traces and kinds", 0.0)
    known, fresh = (_traces(driver, n, site, seed + i) for i, n in ((1, traces), (2, max(8, traces // 3))))
    taxonomy = BehaviourTaxonomy(n=latents, seed=seed).fit(known.states)
    mixed = BehaviourTaxonomy(n=latents, seed=seed, control="shuffle").fit(known.states)
    kinds = [str(kind_of(s)) for s in fresh.text]
    agreed = [adjusted_mutual_information(t.predict(fresh.states), kinds) for t in (taxonomy, mixed)]
    tell(progress, "a vector for every kind", 0.2)
    bias, vectors = _trained(base, known, taxonomy.predict(known.states), steps, each, seed)
    table, random = _gains(base, fresh, taxonomy.predict(fresh.states), bias, vectors, max(4, each // 2), seed)
    order = list(vectors)
    own = sum(_is_best(table, i, i, random) for i in range(len(order)))
    other = sum(_is_best(table, i, (i + 1) % len(order), random) for i in range(len(order)))
    given = problems(tested, (2, 3), hard=True, seed=seed + 3)
    prompts = [p.prompt for p in given]
    alone = {
        m: ins.generate(net, prompts, max_new_tokens=longest).text for m, net in (("base", base), ("thinking", driver))
    }
    common: dict[str, Any] = dict(site=site, bias=bias, coefficients=COEFFICIENTS, max_new_tokens=longest, seed=seed)
    ways: dict[str, dict[str, Any]] = {
        "hybrid": {}, "general vector alone": {"vectors": {}}, "random kinds": {"control": "random_latent"},
        "random vectors": {"control": "random_vector"}, "samples": {"control": "sampled"},
    }  # fmt: skip
    made = {}
    for i, (name, how) in enumerate(ways.items()):
        tell(progress, f"writing together: {name}", 0.5 + 0.1 * i)
        made[name] = hybrid_generate(driver, base, prompts, taxonomy, **({"vectors": vectors} | common | how))
    flags = {n: torch.tensor(right(given, t)).double() for n, t in
             (alone | {n: list(h.text) for n, h in made.items()}).items()}  # fmt: skip
    share = {n: float(f.mean()) for n, f in flags.items()}
    gap = {n: gap_recovered(share["base"], share[n], share["thinking"]) for n in ways}
    ablated = max((n for n in ways if n not in ("hybrid", "samples")), key=lambda n: share[n])
    beyond = None if gap["hybrid"] is None else gap["hybrid"] - float(gap[ablated] or 0)
    return Result(
        PAPER,
        {
            "kinds": agreed[0], "own_kind": own, "above_base": bootstrap(flags["hybrid"] - flags["base"], seed=seed),
            "beyond_ablations": float("nan") if beyond is None else beyond,
            "beyond_samples": bootstrap(flags["hybrid"] - flags["samples"], seed=seed),
        },
        controls={"kinds": agreed[1], "own_kind": other, "above_base": share["random vectors"] - share["base"]},
        series={"right": list(share.values()), "gain": table, "gain of a random vector": random},
        also={**{f"right_{n.replace(' ', '_')}": v for n, v in share.items()},
              **{f"steered_{n.replace(' ', '_')}": h.share for n, h in made.items()},
              **{f"recovered_{n.replace(' ', '_')}": v for n, v in gap.items() if v is not None}},
        notes=f"Kinds by latent: {_said_by(taxonomy, fresh, kinds)}. The best ablation is {ablated}. "
              f"Loss of own sentences falls by {', '.join(f'{table[i, i]:.2f}' for i in range(len(order)))} nats a "
              "token beyond the general vector.",
        seed=seed,
        figure=Drawing("bars", show=("right",), x=tuple(share), y_title="share of problems answered right"),
    )  # fmt: skip


def _traces(driver: Any, n: int, site: str, seed: int) -> Sentences:
    """What the thinking net says when sampled, sentence by sentence, with the state before each."""
    prompts = [p.prompt for p in problems(n, (2, 4), seed=1000 * seed)]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        texts = ins.generate(driver, prompts, max_new_tokens=110, do_sample=True, top_k=0).text
    return sentence_states(driver, prompts, texts, site, of="before", batch=64)


def _examples(said: Sentences, latent: Any, wanted: int | None, n: int, seed: int) -> tuple[list[str], list[str]]:
    """Prefixes and sentences of a latent (None: of any), drawn at random."""
    rows = torch.arange(len(said.text)) if wanted is None else (latent == wanted).nonzero()[:, 0]
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))][:n].tolist()
    return [said.prefix[i] for i in rows], [said.text[i] for i in rows]


def _trained(base: Any, said: Sentences, latent: Any, steps: int, each: int, seed: int) -> tuple[Any, dict[int, Any]]:
    """A general vector, then one for every latent that has sentences, with the general one in force."""
    site = f"layers.{round(0.37 * len(base.blocks))}.resid_post"
    how: dict[str, Any] = dict(positions="all", steps=steps, lr=0.1, seed=seed)
    general = optimise_direction(base, site, *_examples(said, latent, None, 2 * each, seed), **how).direction
    found = sorted(set(latent.tolist()))
    return general, {k: optimise_direction(base, site, *_examples(said, latent, k, each, seed + 1 + k),
                                           static=[ins.add(general)], **how).direction for k in found}  # fmt: skip


def _gains(base: Any, said: Sentences, latent: Any, bias: Any, vectors: dict[int, Any], n: int, seed: int) -> Any:
    """By how much each vector (column) lowers the loss of each latent's sentences (row), and a random one as long."""
    table, random = torch.zeros(len(vectors), len(vectors)), torch.zeros(len(vectors))
    for i, (k, vector) in enumerate(vectors.items()):
        prompts, targets = _examples(said, latent, k, n, seed + 50)
        if not prompts:
            continue
        plain = target_losses(base, prompts, targets, edits=[ins.add(bias)]).mean()
        drawn = random_directions(vector.vector, 1, seed=seed + i)[0]
        drawn = ins.Direction(vector.site, drawn * vector.vector.norm() / drawn.norm(), "random")
        for j, v in enumerate([*vectors.values(), drawn]):
            gain = plain - target_losses(base, prompts, targets, edits=[ins.add(bias), ins.add(v)]).mean()
            (table[i] if j < len(vectors) else random)[j if j < len(vectors) else i] = gain
    return table, random


def _is_best(table: Any, row: int, column: int, random: Any) -> bool:
    return bool(table[row, column] >= table[row].max() and table[row, column] > random[row])


def _said_by(taxonomy: Any, said: Sentences, kinds: list[str]) -> str:
    latent = taxonomy.predict(said.states).tolist()
    each = {k: [x for x, j in zip(kinds, latent, strict=True) if j == k] for k in sorted(set(latent))}
    return "; ".join(f"{k} {max(set(of), key=of.count)} ({of.count(max(set(of), key=of.count)) / len(of):.0%})"
                     for k, of in each.items())  # fmt: skip
