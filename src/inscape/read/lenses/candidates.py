"""How probable each answer out of a list would be, if the model stopped after each layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.progress import Progress, tell
from inscape.models.continuation import continued
from inscape.models.model import Model
from inscape.read.lenses.logit import checked_unembedding, derangement
from inscape.read.lenses.states import stream
from inscape.read.lenses.vocabulary import read_vocabulary


@dataclass(frozen=True, eq=False)
class CandidateReading:
    """Log probability of every candidate after every layer, in nats; NaN where a prompt has fewer candidates.

    log_prob: of the whole candidate, the sum over its tokens, or of its first token (`of` says which). rank: of its
    first token among the whole vocabulary. n_tokens: of each candidate. swapped: the same candidates after another
    prompt: what they get without what this prompt says. entropy: at the end of the prompt.
    """

    layers: tuple[str, ...]
    candidates: tuple[tuple[str, ...], ...]
    log_prob: Float[Tensor, "layer item candidate"]
    rank: Float[Tensor, "layer item candidate"]
    n_tokens: Float[Tensor, "item candidate"]
    entropy: Float[Tensor, "layer item"]
    swapped: Float[Tensor, "layer item candidate"] | None
    of: str
    how: str

    @property
    def probability(self) -> Float[Tensor, "layer item candidate"]:
        """Absolute, not among the candidates."""
        return self.log_prob.exp()

    @property
    def share(self) -> Float[Tensor, "layer item candidate"]:
        """Probability among the candidates alone; of candidates of equal length, or it favours the short ones."""
        return torch.softmax(self.log_prob.nan_to_num(-torch.inf), -1)

    @property
    def best(self) -> Int[Tensor, "layer item"]:
        """The most probable candidate after each layer."""
        return self.log_prob.nan_to_num(-torch.inf).argmax(-1)

    def settled(self) -> Int[Tensor, " item"]:
        """The first layer from which on the last layer's candidate stays the best."""
        same = self.best == self.best[-1]
        return (~same).flip(0).long().cumsum(0).eq(0).flip(0).long().argmax(0)


def candidate_lens(
    model: Model,
    prompts: Sequence[str],
    candidates: Sequence[str] | Sequence[Sequence[str]],
    layers: Any = None,
    *,
    of: str = "sum",
    control: str | None = "shuffle",
    lens: Any = None,
    rows: int = 32,
    seed: int = 0,
    budget: int | None = None,
    progress: Progress = None,
) -> CandidateReading:
    """Follow the probability of given answers through the layers.

    Choose it where the answers are known; `token_set_lens` where any beginning of a word should count.
    candidates: continuations with their space, the same for all prompts or a list a prompt. of: "sum", every token of a
    candidate is asked for after the tokens before it, in the same layer, and the logs are added; "first", its first
    token alone (refused where two candidates of a prompt begin alike). lens: a fitted `TunedLens`.
    control: "shuffle" also reads every prompt's candidates after another prompt; None leaves it out.
    Cost: one row for every different beginning (prompt, prompt and first token, ...) without its head, then one head
    row a layer each; twice that with a control where each prompt has candidates of several tokens of its own.
    Raises: InputError, TokenError for an answer that does not continue its prompt; ModelError as `logit_lens`.
    """
    if of not in ("sum", "first") or control not in (None, "shuffle"):
        raise InputError(f"of={of!r}, control={control!r}: of is 'sum' or 'first', control 'shuffle' or None.")
    shared = [c for c in candidates if isinstance(c, str)]
    each = [tuple(shared)] * len(prompts) if shared else [tuple(str(c) for c in some) for some in candidates]
    if len(each) != len(prompts) or not prompts or not all(each):
        raise InputError(
            f"{len(prompts)} prompts and {len(each)} lists of candidates: give every prompt one that holds some."
        )
    unembed = checked_unembedding(model, list(prompts[:1]))
    asked = _Asked(model, layers, lens, unembed, rows, budget)
    log_prob, rank, lengths, entropy, names = asked.read([str(p) for p in prompts], each, of, progress)
    swapped = None
    if control is not None and len(prompts) > 1:
        order = derangement(len(prompts), seed).tolist()
        swapped = asked.read([str(prompts[i]) for i in order], each, of, progress)[0]
    how = unembed.how if lens is None else f"{lens.how}, then {unembed.how}"
    said = "the sum over tokens" if of == "sum" else "the first token"
    return CandidateReading(names, tuple(each), log_prob, rank, lengths, entropy, swapped, said, how)


@dataclass(frozen=True, eq=False)
class _Asked:
    """What stays the same between a reading and its control."""

    model: Model
    layers: Any
    lens: Any
    unembed: Any
    rows: int
    budget: int | None

    def read(self, prompts: list[str], each: list[tuple[str, ...]], of: str, progress: Progress) -> tuple[Any, ...]:
        wanted, lengths = self._contexts(prompts, each, of)
        total: Tensor = torch.empty(0)
        rank: Tensor = torch.empty(0)
        entropy: Tensor = torch.empty(0)
        names: tuple[str, ...] = ()
        contexts = sorted(wanted, key=len)
        for start in range(0, len(contexts), self.rows):
            some = contexts[start : start + self.rows]
            tell(progress, "reading candidates", start / len(contexts))
            read = stream(self.model, [list(ids) for ids in some], self.layers, at=-1)
            states = read.states if self.lens is None else self.lens.translated(read.states, read.layers, self.model)
            most = max(len(wanted[ids]) for ids in some)
            tokens = torch.tensor([[t for *_, t in wanted[ids]] + [0] * (most - len(wanted[ids])) for ids in some])
            found = read_vocabulary(self.unembed, states, tokens=tokens, budget=self.budget)
            if not names:
                names = read.layers
                shape = (len(names), *lengths.shape)
                total, rank = torch.zeros(shape), torch.full(shape, torch.nan)
                entropy = torch.zeros(shape[:2])
            for row, ids in enumerate(some):
                for column, (item, candidate, step, _) in enumerate(wanted[ids]):
                    total[:, item, candidate] += found.asked[:, row, column]
                    if step == 0:
                        rank[:, item, candidate] = found.rank[:, row, column].float()
                        entropy[:, item] = found.entropy[:, row]
        return total.masked_fill(lengths.isnan(), torch.nan), rank, lengths, entropy, names

    def _contexts(
        self, prompts: list[str], each: list[tuple[str, ...]], of: str
    ) -> tuple[dict[tuple[int, ...], list[tuple[int, int, int, int]]], Tensor]:
        """Every beginning, with (item, candidate, which of its tokens, the token) asked after it; and lengths."""
        wanted: dict[tuple[int, ...], list[tuple[int, int, int, int]]] = {}
        lengths = torch.full((len(prompts), max(map(len, each))), torch.nan)
        for i, (prompt, some) in enumerate(zip(prompts, each, strict=True)):
            first: dict[int, str] = {}
            for j, candidate in enumerate(some):
                ids, start = continued(self.model.tokenizer, prompt, candidate)
                if start == 0:
                    raise InputError("the prompt is empty and this tokenizer begins no text, so nothing comes before.")
                lengths[i, j] = len(ids) - start
                if of == "first" and ids[start] in first:
                    raise InputError(
                        f"{first[ids[start]]!r} and {candidate!r} begin with the same token, which tells nothing.\n"
                        "  take of='sum'."
                    )
                first[ids[start]] = candidate
                for at in range(start, len(ids) if of == "sum" else start + 1):
                    wanted.setdefault(tuple(ids[:at]), []).append((i, j, at - start, ids[at]))
        return wanted, lengths
