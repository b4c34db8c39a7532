"""Mixture of tunable experts: which experts make a model refuse, by how its prompts are routed, switched off and on.

A mixture of 128 small experts answers questions about places and was then made to refuse sensitive ones by training two
experts and their rows of the routers alone: so where refusing lives is known, and has to be found from the routing of
prompts. The map counts, for every expert, the prompt's tokens that chose it; experts are ranked by the difference
between refused and answered questions of the training, and edits are measured on questions it never saw. Beside each
edit stand sets as large, of the same layers and about as often used, and the whole procedure on shuffled labels.
Bounds are those of the page (the first is ours); they were kept after pilots of other seeds, in which masking the first
two ended all refusals and the planted experts ranked 1 and 8. A net trained on refusals from the start was looked at
too: masking its first eight experts changed nothing, so that refusing need not be local in a mixture.
In the recorded run the first expert found is a planted one, and masking it alone ends all refusals, with the answers
that the almanac tells in their place. The other planted expert ranks 17th, and without the first two the perplexity of
neutral text is a third higher: these two claims fail.
Cost: four minutes on one core. Differs from the source: a net of 0.5 million parameters with planted refusals in place
of DeepSeek-R1; rates a token in place of counts; a masked expert's slot goes to the next best, which the paper leaves
open; one class against the other, no third of official lines.
"""

import inscape as ins
from inscape.core.drawing import Drawing
from inscape.core.paper import Claim, Paper, Result
from inscape.core.progress import tell
from inscape.dynamics.toys.experts import PLANTED, almanacs, answer, questions
from inscape.engine.token_losses import token_losses
from inscape.read.behaviour.judged import judged_rate
from inscape.steer.experts.scores import expert_edits, score_experts

PAPER = Paper(
    name="mote",
    title="Mixture of Tunable Experts: Behavior Modification of DeepSeek-R1 at Inference Time",
    authors="Dahlke, Klagges, Rathje, Bauer, Zettel, Dimitrov",
    year=2025,
    link="https://arxiv.org/abs/2502.11096",
    control="random experts of the same layers and about as often used; shuffled labels",
    claims=(
        Claim("planted_rank", "both experts that refusals were planted in are among the first ten of 128: the worse "
              "rank", at_most=10, control="labels shuffled"),
        Claim("suppressed", "masking the first two (1.6 %) lowers refusals of new questions by 20 points or more",
              at_least=0.2, control="the first two of shuffled labels"),
        Claim("beyond_random", "and by more than the best of 20 random sets: the difference", above=0),
        Claim("stimulated", "forcing them on makes new answered questions refused more than the best of 20 random sets "
              "does: the difference", above=0),
        Claim("perplexity", "without them the perplexity of neutral text changes by less than 5 %", above=-0.05,
              below=0.05),
        Claim("accuracy", "and at most 3 points fewer of the other questions are answered rightly", at_most=0.03),
        Claim("shuffled", "the first two of shuffled labels do no more than the best of 20 random sets: the difference "
              "of the drops", at_most=0),
    ),
)  # fmt: skip
QUICK = dict(prompts=12, sets=1)
SIZES = (1, 2, 4, 8)


def run(model="toy-experts", *, prompts: int = 150, sets: int = 20, seed: int = 11, progress=None) -> Result:
    model = ins.open(model) if isinstance(model, str) else model
    train, new = ([questions(prompts, refused=r, held_out=h, seed=seed) for r in (True, False)] for h in (False, True))
    texts = [[q.prompt for q in some] for some in train]
    scores, nothing = (score_experts(model, *texts, control=c, seed=seed) for c in (None, "shuffle"))

    def rate(refused: bool, chosen: list, kind: str) -> float:
        edits = expert_edits(model, chosen, kind) if chosen else ()
        asked = [q.prompt for q in new[0 if refused else 1]]
        return float(judged_rate(model, asked, ["sorry"], edits, max_new_tokens=2, batch=prompts))

    base = {refused: rate(refused, [], "mask") for refused in (True, False)}
    lines = {name: [value] for name, value in (("refused, masked", base[True]), ("random masked", base[True]),
             ("answered, forced", base[False]), ("random forced", base[False]))}  # fmt: skip
    for i, n in enumerate(SIZES):
        tell(progress, f"{n} experts and random sets", i / len(SIZES))
        chosen = scores.top(n)
        drawn = scores.matched(chosen, sets, seed=seed + n)
        lines["refused, masked"].append(rate(True, chosen, "mask"))
        lines["random masked"].append(min(rate(True, one, "mask") for one in drawn))
        forced = [e for i, e in enumerate(chosen) if sum(o[0] == e[0] for o in chosen[:i]) < 2]  # a token passes two
        lines["answered, forced"].append(rate(False, forced, "force"))
        lines["random forced"].append(max(rate(False, one, "force") for one in scores.matched(forced, sets, seed=n)))
    two, luck = SIZES.index(2) + 1, nothing.top(2)
    off = expert_edits(model, scores.top(2), "mask")
    neutral = almanacs(prompts, seed=seed)
    before, after = (sum(float(x.sum()) for x in token_losses(model, [neutral], edits=e)) for e in ((), off))
    tokens = sum(len(x) for x in token_losses(model, [neutral]))
    right = [_right(model, new[1], e) for e in ((), off)]
    told = _right(model, new[0], off, told=True)
    drop, random_drop = (base[True] - lines[name][two] for name in ("refused, masked", "random masked"))
    luck_drop = base[True] - rate(True, luck, "mask")
    order, lucky = ([e for e, _ in s.ranked()] for s in (scores, nothing))
    ranks, lucky_ranks = ([1 + o.index(e) for e in PLANTED] for o in (order, lucky))
    return Result(
        PAPER,
        {"planted_rank": max(ranks), "suppressed": drop, "beyond_random": drop - random_drop,
         "stimulated": lines["answered, forced"][two] - lines["random forced"][two],
         "perplexity": 2.718281828 ** ((after - before) / tokens) - 1, "accuracy": right[0] - right[1],
         "shuffled": luck_drop - random_drop},
        controls={"planted_rank": max(lucky_ranks), "suppressed": luck_drop},
        series=lines,
        also={"refused_before": base[True], "refused_after": lines["refused, masked"][two], "random_after":
              lines["random masked"][two], "answers_of_the_almanac": told, "forced": lines["answered, forced"][two],
              "random_forced": lines["random forced"][two], "right_before": right[0], "right_after": right[1],
              "rank_first": min(ranks), "significant": int((scores.p < 0.05).sum()),
              "significant_shuffled": int((nothing.p < 0.05).sum())},
        seed=seed,
        figure=Drawing("lines", show=("refused, masked", "answered, forced"),
                       control=("random masked", "random forced"), x=(0.0, *map(float, SIZES)),
                       x_title="experts, by rank", y_title="share refused"),
    )  # fmt: skip


def _right(model, asked: list, edits, told: bool = False) -> float:
    said = ins.generate(model, [q.prompt for q in asked], edits, max_new_tokens=8).text
    return sum(s.strip().startswith(q.told if told else answer(q)) for s, q in zip(said, asked, strict=True)) / len(
        asked
    )
