"""When a model has made up its mind: the layer from which its answer stays, and the token after which it is there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inscape.core.errors import InputError, ShapeError
from inscape.core.progress import Progress, tell
from inscape.engine.forward import run
from inscape.engine.unembed import unembedding
from inscape.models.model import Model
from inscape.read.generation.voids import stack_of


def commitment_layer(rank: Int[Tensor, "layer *places"]) -> Int[Tensor, "*places"]:
    """The first layer from which the final token stays on top of the lens, counted from 0.

    rank: of the model's own final token after each layer, 1 the top (`logit_lens(...).rank`). As many as there are
    layers where it is not on top even after the last (a lens that does not read this model).
    Beside it stands the same of `logit_lens(...).control`, the final tokens of other positions.
    """
    if rank.ndim < 1 or not len(rank):
        raise ShapeError(f"ranks of shape {tuple(rank.shape)}: give one a layer.")
    stays = (rank == 1).flip(0).long().cumprod(0).sum(0)
    return len(rank) - stays


@dataclass(frozen=True, eq=False)
class EarlyAnswers:
    """What would be answered if the rationale ended here: probabilities of candidates after more and more tokens.

    cuts: tokens of the rationale that were read. probability: among the candidates, at every cut; NaN behind a row's
    end. control: the same after the beginning of another row's rationale.
    """

    cuts: tuple[int, ...]
    probability: Float[Tensor, "cut row candidate"]
    control: Float[Tensor, "cut row candidate"] | None

    def of(self, answer: Sequence[int]) -> Float[Tensor, "cut row"]:
        """Probability of one candidate a row, by its number."""
        index = torch.tensor(list(answer))
        return self.probability[:, torch.arange(len(index)), index]

    def settled(self) -> Int[Tensor, " row"]:
        """The first cut from which the answer at the last one stays the most probable, as a number of tokens."""
        best, known = self.probability.nan_to_num(-1).argmax(-1), torch.isfinite(self.probability[..., 0])
        out = []
        for row in range(best.shape[1]):
            mine = best[known[:, row], row]
            if not len(mine):
                raise InputError(f"row {row} has no cut: its rationale is shorter than the first, {self.cuts[0]}.")
            same = (mine == mine[-1]).flip(0).long().cumprod(0).sum()
            out.append(self.cuts[len(mine) - int(same)])
        return torch.tensor(out)


def early_answers(
    model: Model,
    prompts: Sequence[Sequence[int]],
    rationales: Sequence[Sequence[int]],
    ask: Sequence[int],
    candidates: Sequence[int],
    *,
    every: int = 8,
    control: str | None = "shuffle",
    seed: int = 0,
    batch: int = 64,
    progress: Progress = None,
) -> EarlyAnswers:
    """Cut each rationale after every so many tokens, ask for the answer there, and read the candidates' probabilities.

    prompts, rationales, ask: token ids; `ask` comes before an answer ("answer", "The answer is"). candidates: first
    tokens of the possible answers. control: "shuffle" puts each prompt before another row's rationale: what the
    tokens of a rationale alone, or the prompt alone, would give away.
    Cost: one forward a cut and row, the head at one position for the candidates alone.
    Raises: InputError for no rows, unequal lists, or nothing to ask.
    """
    if not prompts or len(prompts) != len(rationales):
        raise InputError(f"{len(prompts)} prompts and {len(rationales)} rationales: give one a prompt.")
    if not ask or len(candidates) < 2 or every < 1:
        raise InputError(
            "early answers need ask=, the tokens before an answer, two candidates, and every= of 1 or more."
        )
    longest = max(map(len, rationales))
    cuts = tuple(range(0, longest + 1, every))
    unembed, wanted = unembedding(model), torch.tensor(list(candidates))
    site = f"{stack_of(model)[-1]}.resid_post"
    n = len(prompts)
    generator = torch.Generator().manual_seed(seed)
    turn = 1 + int(torch.randint(max(n - 1, 1), (1,), generator=generator))
    other = [rationales[(i + turn) % n] for i in range(n)]

    def asked(of: Sequence[Sequence[int]], name: str, base: float) -> Tensor:
        out = torch.full((len(cuts), n, len(wanted)), float("nan"))
        for c, cut in enumerate(cuts):
            tell(progress, f"{name}, {cut} tokens", base + c / len(cuts) / (1 + (control is not None)))
            rows = [i for i in range(n) if len(rationales[i]) >= cut and len(of[i]) >= cut]
            for start in range(0, len(rows), batch):
                some = rows[start : start + batch]
                texts = [[*prompts[i], *of[i][:cut], *ask] for i in some]
                state = run(model, texts, read=site, reduce="last")[site]
                out[c, some] = unembed.columns(state, wanted).softmax(-1).cpu()
        return out

    mine = asked(rationales, "early answers", 0.0)
    null = asked(other, "other rationales", 0.5) if control is not None and n > 1 else None
    return EarlyAnswers(cuts, mine, null)


def answer_over_tokens(
    model: Model, inputs: Any, candidates: Sequence[int], *, layers: str = "layers.*"
) -> tuple[Float[Tensor, "layer batch pos candidate"], Bool[Tensor, "batch pos"]]:
    """Probability of each candidate, among the candidates, read by the lens at every token and layer; and real tokens.

    Where `early_answers` asks, this only looks: is the answer in the stream before it is due? Not only at the token
    before it: the lens shows what the next token would be, so read it beside the candidates' mean over other rows.
    Cost: one forward without its head and one product with the candidates' rows of it.
    """
    names = [f"{name}.resid_post" for name in stack_of(model, layers)]
    trace = run(model, inputs, read=names)
    unembed, wanted = unembedding(model), torch.tensor(list(candidates))
    first = trace[names[0]]
    out = [
        unembed.columns(trace[s].flatten(0, 1), wanted).softmax(-1).unflatten(0, first.shape[:2]).cpu() for s in names
    ]
    mask = trace.mask if trace.mask is not None else torch.ones(first.shape[:2], dtype=torch.bool)
    return torch.stack(out), mask.cpu().bool()
