"""Two models, one text: what one of them is about to do chooses the vector that is added to the other.

Every token:
1. The driver reads the running text; its state at the last token has a category in a taxonomy.
2. The executor reads it too. Where both would go on with the same token, that is it.
3. Elsewhere the executor is run with the category's vector (and a general one) at several strengths, all in one batch,
   for each of several places; each run proposes its likeliest token, and the one that the driver finds likeliest is
   taken.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inscape.core.direction import Direction, same_model
from inscape.core.edits.add import add
from inscape.core.errors import InputError, ModelError, SiteError
from inscape.core.positions import Newest
from inscape.core.progress import Progress, tell
from inscape.engine.inputs import prepare, tokenizer_of
from inscape.engine.reading_on import ReadingOn
from inscape.models.model import Model

CONTROLS = ("random_latent", "random_vector", "sampled")
Window = str | int


@dataclass(frozen=True, eq=False)
class Hybrid:
    """A text that two models wrote. tokens: [batch, new], -1 behind a row's end.

    latent: the driver's category at each token; steered: did the two disagree there, so that proposals were made?
    coefficient, window: of the proposal taken (window 0: all tokens); NaN and -1 where nothing was steered.
    """

    text: tuple[str, ...]
    tokens: Int[Tensor, "batch new"]
    latent: Int[Tensor, "batch new"]
    steered: Bool[Tensor, "batch new"]
    coefficient: Float[Tensor, "batch new"]
    window: Int[Tensor, "batch new"]

    @property
    def share(self) -> float:
        """The share of tokens that were steered (under "sampled": drawn)."""
        real = self.tokens >= 0
        return float(self.steered[real].float().mean()) if bool(real.any()) else 0.0


def hybrid_generate(
    driver: Model,
    executor: Model,
    prompts: Any,
    taxonomy: Any,
    vectors: Mapping[int, Direction],
    *,
    site: str,
    bias: Direction | None = None,
    coefficients: Sequence[float] = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    windows: Sequence[Window] = ("all", 1),
    max_new_tokens: int = 100,
    control: str | None = None,
    seed: int = 0,
    progress: Progress = None,
) -> Hybrid:
    """Let a driver's behaviour choose, token by token, which vector steers an executor: does it only lack the when?

    taxonomy: anything fitted with `predict(rows)` giving a category a row, such as `read.behaviour.BehaviourTaxonomy`;
    site: where the driver's states that it reads are. vectors: category -> direction at one site of the executor, as
    `steer.optimise_direction` trains them; a category without one is steered by `bias` alone. bias: added with every
    vector; with no `vectors` it steers alone, whatever the category. windows: "all" tokens so far, or the last N.
    control: "random_latent" draws the category; "random_vector" has random vectors as long in the place of all;
    "sampled" does not steer at all: as many proposals are drawn from the executor's own distribution, and the driver
    selects among them all the same. The selection alone leaks what the driver knows: read the result beside this one.
    Cost: a token: one new column of each model, and of rows that disagree, for every coefficient, the executor's last N
    columns for a window of N and its whole text for "all", where a vector on past tokens leaves no cache valid.
    Raises: ModelError for models with other tokens; SiteError for vectors at several sites; InputError.
    Source: Venhoff et al. 2025, arXiv:2510.07364; there vectors are trained at a block's input and added at its output,
    here both at the site they are for; models of two tokenizers are theirs, not ours.
    """
    if control not in (None, *CONTROLS):
        raise InputError(f"control={control!r} is none of {', '.join(map(repr, CONTROLS))}, or None.")
    if not vectors and bias is None:
        raise InputError("there are no vectors and no bias: nothing steers the executor.")
    if not coefficients or not windows or max_new_tokens < 1:
        raise InputError(f"{coefficients=}, {windows=}, {max_new_tokens=}: one at least of each.")
    wrong = [w for w in windows if not (w == "all" or (isinstance(w, int) and w > 0))]
    if wrong:
        raise InputError(f"windows={list(windows)}: {wrong[0]!r} is neither 'all' nor a number of last tokens.")
    if _vocabulary(driver) != _vocabulary(executor):
        raise ModelError(
            "driver and executor have other tokens: what one proposes, the other cannot read.\n"
            "  take a base model and its own tuned version."
        )
    table = _table(vectors, bias, executor)
    prepared = prepare(executor, prompts, side="left")
    if prepared.tokens is None or prepared.mask is None:
        raise InputError("a hybrid continues texts or token ids; these inputs have none.")
    texts = [row[m].tolist() for row, m in zip(prepared.tokens, prepared.mask.bool(), strict=True)]
    widest = max([1, *(int(w) for w in windows if w != "all")])
    writer = _Writer(ReadingOn(driver, texts), ReadingOn(executor, texts, widest), taxonomy, site, table,
                     tuple(coefficients), tuple(windows), control, torch.Generator().manual_seed(seed))  # fmt: skip
    rows, ends = len(texts), torch.tensor(sorted(_ends(executor)))
    noted: list[dict[str, Tensor]] = []
    active = torch.arange(rows)
    for i in range(max_new_tokens):
        tell(progress, "writing together", i / max_new_tokens)
        step = writer.step()
        wide = {"tokens": torch.full((rows,), -1), "latent": torch.full((rows,), -1),
                "steered": torch.zeros(rows, dtype=torch.bool), "coefficient": torch.full((rows,), torch.nan),
                "window": torch.full((rows,), -1)}  # fmt: skip
        for name, value in step.items():
            wide[name][active] = value
        noted.append(wide)
        on = ~torch.isin(step["tokens"], ends)
        if not bool(on.any()):
            break
        writer.go_on(step["tokens"], on)
        active = active[on]
    out = {name: torch.stack([n[name] for n in noted], 1) for name in noted[0]}
    tokenizer = tokenizer_of(executor)
    said = tuple(tokenizer.decode(row[row >= 0], skip_special_tokens=True) for row in out["tokens"])
    return Hybrid(said, **out)


def gap_recovered(base: float, hybrid: float, thinking: float) -> float | None:
    """`(hybrid - base) / (thinking - base)`, or None where the second model is no better: report the accuracies."""
    return (hybrid - base) / (thinking - base) if thinking > base else None


@dataclass(frozen=True, eq=False)
class _Writer:
    driver: ReadingOn
    executor: ReadingOn
    taxonomy: Any
    site: str
    table: "_Table"
    coefficients: tuple[float, ...]
    windows: tuple[Window, ...]
    control: str | None
    draw: torch.Generator

    def go_on(self, tokens: Int[Tensor, " batch"], on: Bool[Tensor, " batch"]) -> None:
        for reading in (self.driver, self.executor):
            reading.append(tokens)
            if not bool(on.all()):
                reading.keep(on.nonzero()[:, 0])

    def step(self) -> dict[str, Tensor]:
        """The next token of every text, and how it came about."""
        scores, seen = self.driver.look(read={"x": self.site})
        known = scores.float().cpu().log_softmax(-1)
        latent = torch.as_tensor(self.taxonomy.predict(seen["x"].float())).cpu().long()
        own = self.executor.look()[0].float().cpu()
        token = own.argmax(-1)
        steered = known.argmax(-1) != token
        coefficient = torch.full((len(token),), torch.nan)
        window = torch.full((len(token),), -1)
        at = steered.nonzero()[:, 0]
        if len(at):
            category = latent[at]
            if self.control == "sampled":
                n = len(self.coefficients) * len(self.windows)
                proposals = torch.multinomial(own[at].softmax(-1), n, replacement=True, generator=self.draw)
            else:
                if self.control == "random_latent":
                    category = torch.randint(self.table.n, (len(at),), generator=self.draw)
                added = self.table.of(category, self.draw if self.control == "random_vector" else None)
                proposals = self._proposals(at, added)
            best = known[at].gather(1, proposals).argmax(1)
            token[at] = proposals.gather(1, best[:, None])[:, 0]
            if self.control != "sampled":
                which = best.div(len(self.coefficients), rounding_mode="floor")
                widths = torch.tensor([0 if w == "all" else int(w) for w in self.windows])
                coefficient[at] = torch.tensor(self.coefficients)[best % len(self.coefficients)]
                window[at] = widths[which]
        return {"tokens": token, "latent": latent, "steered": steered, "coefficient": coefficient, "window": window}

    def _proposals(self, rows: Int[Tensor, " some"], added: Float[Tensor, "some d"]) -> Int[Tensor, "some n"]:
        """The likeliest token of each row under every window and coefficient, in this order."""
        found = []
        times = torch.tensor(self.coefficients)
        vector = (added[:, None] * times[:, None]).flatten(0, 1)
        many = rows.repeat_interleave(len(times))
        for window in self.windows:
            everywhere = window == "all"
            at = "all" if everywhere else Newest(int(window))
            edit = add(Direction(self.table.site, vector, "hybrid", self.table.model), at=at)
            scores, _ = self.executor.look([edit], rows=many, whole=everywhere)
            found.append(scores.argmax(-1).cpu().unflatten(0, (len(rows), len(times))))
        return torch.cat(found, 1)


@dataclass(frozen=True, eq=False)
class _Table:
    """What each category adds: its vector and the bias, or the bias alone."""

    site: str
    model: str
    vectors: dict[int, Tensor]
    bias: Tensor

    @property
    def n(self) -> int:
        return max(self.vectors, default=0) + 1

    def of(self, category: Int[Tensor, " batch"], random: torch.Generator | None) -> Float[Tensor, "batch d"]:
        added = torch.stack([self.bias + self.vectors.get(c, torch.zeros_like(self.bias)) for c in category.tolist()])
        if random is None:
            return added
        drawn = torch.randn(added.shape, generator=random)
        return drawn * (added.norm(dim=1, keepdim=True) / drawn.norm(dim=1, keepdim=True))


def _table(vectors: Mapping[int, Direction], bias: Direction | None, executor: Model) -> _Table:
    every = [*vectors.values(), *([bias] if bias is not None else [])]
    sites = sorted({d.site for d in every})
    if len(sites) > 1:
        raise SiteError(f"the vectors live at {', '.join(sites)}: they are added at one site of the executor.")
    found = ""
    for d in every:
        found = same_model(found, d.model)
    same_model(found, executor.fingerprint)
    zero = torch.zeros_like(every[0].vector, dtype=torch.float32, device="cpu")
    held = {int(c): d.vector.detach().float().cpu() for c, d in vectors.items()}
    return _Table(sites[0], found, held, zero if bias is None else bias.vector.detach().float().cpu())


def _vocabulary(model: Model) -> dict[str, int]:
    return tokenizer_of(model).get_vocab()


def _ends(model: Model) -> set[int]:
    eos: Any = model.module.generation_config.eos_token_id
    return set() if eos is None else {eos} if isinstance(eos, int) else set(eos)
