"""Next-token predictions at the tokens that count, of prompts and of what follows them, edited or not.

1. Prompts and what follows (what the plain model writes, what an edited one wrote) become one sequence a row, prompts
   padded on the left, so that one forward scores all new tokens and edits know which tokens were generated.
2. What is kept of a forward is the final state at the tokens that count; scores are made of it some rows at a time.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inscape.core.edit import Edits, listed
from inscape.core.errors import InputError, ModelError, SiteError
from inscape.core.progress import Progress, tell
from inscape.core.shift import Shift, kl_between, log_probabilities, shift
from inscape.engine.forward import run
from inscape.engine.generate import generate
from inscape.engine.inputs import Inputs, pad_of, padded, prepare
from inscape.engine.planning import names_of
from inscape.engine.unembed import BUDGET, Unembedding, predicts_next, reads_as_the_model_does, unembedding
from inscape.models.model import Model

TOKENS = ("new", "last", "all")


@dataclass(frozen=True, eq=False)
class Sequences:
    """Rows of prompt and what follows. rows: each one's prompt; counts: columns whose prediction of the next counts."""

    inputs: Inputs
    counts: Bool[Tensor, "batch pos"]
    rows: tuple[int, ...]

    @property
    def owner(self) -> Int[Tensor, " n"]:
        """The prompt of each prediction that counts, in the order of `Predictions.states`."""
        return torch.tensor(self.rows)[self.counts.nonzero()[:, 0]]

    @property
    def targets(self) -> Int[Tensor, " n"]:
        """The token that follows each prediction that counts."""
        assert self.inputs.tokens is not None
        row, column = self.counts.nonzero(as_tuple=True)
        return self.inputs.tokens.cpu()[row, (column + 1).clamp(max=self.counts.shape[1] - 1)]


@dataclass(frozen=True, eq=False)
class Predictions:
    """Makes the predictions of a model. head: from final states; None where the model's own output has to be taken."""

    model: Model
    head: Unembedding | None
    site: str
    is_normed: bool

    @classmethod
    def of(cls, model: Model, example: Any) -> "Predictions":
        """Tries on an example whether final states give the model's own scores.

        Raises: ModelError for a model that does not predict next tokens.
        """
        if not predicts_next(model):
            raise ModelError(
                f"{type(model.module).__name__} does not predict the next token at every position: it is no decoder "
                "with a language head."
            )
        try:
            head = unembedding(model)
            head = head if reads_as_the_model_does(model, head, example) <= 5e-2 else None
        except ModelError:
            head = None
        prefix = model.blocks[0].name.rsplit("layers.", 1)[0] if model.blocks else ""
        normed = head is not None and head.norm is not None and f"{prefix}final_norm" in model.sites
        return cls(model, head, f"{prefix}final_norm" if normed else f"{model.blocks[-1].name}.resid_post", normed)

    def check_before(self, edits: Edits) -> None:
        """Refuse edits that predictions would not see. Raises: SiteError."""
        order = list(self.model.points)
        for edit in listed(edits) if self.head is not None else ():
            for name in names_of(self.model, edit.site):
                if name in order and order.index(name) > order.index(self.site):
                    raise SiteError(
                        f"{edit!r} is at {name}, which comes after the final state, {self.site}: predictions are made "
                        f"from there.\n  choose a site up to {self.model.blocks[-1].name}.resid_post."
                    )

    def states(self, seq: Sequences, edits: Edits = (), *, grad: bool = False) -> Float[Tensor, "n d"]:
        """What scores are made of, at the tokens that count: final states, or the scores themselves without a head."""
        if self.head is None:
            out: Any = run(self.model, seq.inputs, edits=edits, output=True, grad=grad).output
            return out.logits[seq.counts.to(out.logits.device)].float()
        state = run(self.model, seq.inputs, read={"x": self.site}, edits=edits, grad=grad)["x"]
        return state[seq.counts.to(state.device)]

    def scores(self, states: Float[Tensor, "n d"]) -> Float[Tensor, "n vocab"]:
        return states if self.head is None else self.head(states, self.is_normed)

    def shift(
        self, base: Float[Tensor, "n d"], moved: Float[Tensor, "n d"], answers: Mapping[str, Any] | None = None
    ) -> Shift:
        """How far predictions moved; answers: as in `core.shift`."""
        parts = []
        for here in self.chunks(len(base), 5):
            own = {k: ids[here] if torch.as_tensor(ids).ndim == 2 else ids for k, ids in (answers or {}).items()}
            parts.append(shift(self.scores(base[here]), self.scores(moved[here]), own, budget=BUDGET))
        return Shift.cat(parts)

    def kl(
        self, base: Float[Tensor, "k d"], moved: Float[Tensor, "n d"], which: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, " n"]:
        """KL(base || moved) of predictions in nats, alone: without the other numbers of `shift`.

        which: the row of `base` that each of `moved` is compared with, where many share one: each is made once.
        """
        which = torch.arange(len(moved)) if which is None else which
        out = torch.zeros(len(moved), dtype=torch.float64)
        for some in self.chunks(len(base), 5):
            mine = ((which >= some.start) & (which < some.stop)).nonzero()[:, 0]
            if not len(mine):
                continue
            log_p = log_probabilities(self.scores(base[some]))
            p = log_p.exp()
            for part in self.chunks(len(mine), 5):
                at = mine[part]
                row = (which[at] - some.start).to(p.device)
                log_q = log_probabilities(self.scores(moved[at.to(moved.device)]))
                out[at] = kl_between(p[row], log_p[row], log_q).double().cpu()
        return out

    def losses(self, states: Float[Tensor, "n d"], targets: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Cross-entropy of the tokens that came, in nats."""
        out = torch.zeros(len(states))
        for here in self.chunks(len(states), 2):
            scores = self.scores(states[here])
            wanted = targets[here].to(scores.device)
            out[here] = torch.nn.functional.cross_entropy(scores, wanted, reduction="none").float().cpu()
        return out

    def chunks(self, n: int, alive: int) -> Iterator[slice]:
        """Rows to score together, when so many tensors of their scores live at once."""
        step = max(1, self.head.rows_at_once(BUDGET * 3 // alive) if self.head is not None else n)
        for start in range(0, n, step):
            yield slice(start, min(start + step, n))


def token_rows(model: Model, prompts: Any, name: str = "prompts") -> list[list[int]]:
    """Prompts as token ids, one list a row. Raises: InputError for none, or for what is no text."""
    if isinstance(prompts, str) or not hasattr(prompts, "__len__") or not len(prompts):
        raise InputError(f"{name} is a list of texts (or of token ids), at least one.")
    ready = prepare(model, prompts, side=None if model.family.left_padding else "right")
    if ready.tokens is None or ready.mask is None:
        raise InputError(f"{name} are no tokens: give texts, token ids or chats.")
    return [ids[real].tolist() for ids, real in zip(ready.tokens.cpu(), ready.mask.cpu().bool(), strict=True)]


def batches(model: Model, prompts: Sequence[Sequence[int]], rows: int) -> list[list[int]]:
    """Prompts of like length together; of equal length where a model's state cannot be padded before the text."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    out: list[list[int]] = []
    for i in order:
        apart = not model.family.left_padding and out and len(prompts[out[-1][0]]) != len(prompts[i])
        if not out or len(out[-1]) == rows or apart:
            out.append([])
        out[-1].append(i)
    return out


def sequences(
    model: Model, prompts: Sequence[Sequence[int]], after: Sequence[Sequence[int]], rows: Sequence[int],
    counts: str = "new",
) -> Sequences:  # fmt: skip
    """Prompts with what follows each, as one batch.

    counts: "new", the predictions of what follows (the last token of the prompt where nothing does); "last", of the
    first token of it; "all", of every real token that has one after it.
    """
    lead = padded([list(p) for p in prompts], pad_of(model), left=True)
    width, pads = lead.shape[1], torch.tensor([[len(p)] for p in prompts])
    is_real = torch.arange(width) >= width - pads
    if longest := max(map(len, after)):
        tail = padded([list(a) or [pad_of(model)] for a in after], pad_of(model))[:, :longest]
        lead = torch.cat([lead, tail], 1)
        new = torch.arange(tail.shape[1]) < torch.tensor([[len(a)] for a in after])
        is_real = torch.cat([is_real, new], 1)
    column = torch.arange(lead.shape[1])
    n = torch.tensor([[max(1, len(a))] for a in after])
    if counts == "new":
        counted = (column >= width - 1) & (column < width - 1 + n)
    elif counts == "last":
        counted = (column == width - 1).expand(len(lead), -1)
    else:
        counted = is_real & torch.cat([is_real[:, 1:], torch.zeros(len(lead), 1, dtype=torch.bool)], 1)
    ids = {"input_ids": lead} if bool(is_real.all()) else {"input_ids": lead, "attention_mask": is_real.long()}
    return Sequences(replace(prepare(model, ids), prompt=width), counted, tuple(rows))


def continuations(
    model: Model, prompts: Sequence[Sequence[int]], max_new_tokens: int, edits: Edits = (), **generate_kwargs: Any
) -> list[list[int]]:
    """What the model writes after each prompt of a batch, up to and with the end of the text, as token ids."""
    made = generate(model, [list(p) for p in prompts], edits, max_new_tokens=max_new_tokens, **generate_kwargs).tokens
    return [until_end(model, row) for row in made.tolist()]


def until_end(model: Model, ids: Sequence[int]) -> list[int]:
    """New tokens up to and with the one that ends the text."""
    end = model.module.generation_config.eos_token_id  # pyright: ignore[reportAttributeAccessIssue]
    ends = set(end if isinstance(end, (list, tuple)) else [end])
    stop = next((i for i, token in enumerate(ids) if token in ends), len(ids) - 1)
    return list(ids[: stop + 1])


def measured_sequences(
    model: Model, prompts: Any, tokens: str = "new", max_new_tokens: int = 16, batch_rows: int = 16,
    progress: Progress = None, *, seed: int = 0, **generate_kwargs: Any,
) -> list[Sequences]:  # fmt: skip
    """Batches of prompts with the tokens whose predictions are compared; "new" has the plain model write them first.

    generate_kwargs: how it writes, greedily without; seed: of torch meanwhile, which is put back.
    """
    if tokens not in TOKENS:
        raise InputError(f"tokens={tokens!r} is none of {', '.join(map(repr, TOKENS))}.")
    if max_new_tokens < 1 or batch_rows < 1:
        raise InputError(f"{max_new_tokens=}, {batch_rows=}: both are at least 1.")
    ids = token_rows(model, prompts)
    if tokens == "all" and max(map(len, ids)) < 2:
        raise InputError(
            "tokens='all' compares predictions inside the texts, and each has one token: give longer ones."
        )
    out, groups = [], batches(model, ids, batch_rows)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for k, rows in enumerate(groups):
            some, after = [ids[i] for i in rows], [[]] * len(rows)
            if tokens == "new":
                tell(progress, "writing what the plain model goes on with", k / len(groups))
                after = continuations(model, some, max_new_tokens, **generate_kwargs)
            out.append(sequences(model, some, after, rows, tokens))
    return out


@dataclass(frozen=True, eq=False)
class Moved:
    """How predictions moved under edits. shift: of every prediction that counts; prompt: which prompt it is of."""

    shift: Shift
    prompt: Int[Tensor, " n"]

    def by_prompt(self, values: Float[Tensor, " n"]) -> Float[Tensor, " prompt"]:
        """The mean of the predictions of each prompt; prompts without one are left out."""
        return mean_by(values, self.prompt)


def mean_by(values: Float[Tensor, " n"], owner: Int[Tensor, " n"]) -> Float[Tensor, " k"]:
    """The mean over the entries of each owner, in float64, owners in order; those of none are left out."""
    total = torch.zeros(int(owner.max()) + 1, dtype=torch.float64).index_add_(0, owner, values.double())
    count = torch.bincount(owner, minlength=len(total))
    return (total / count)[count > 0]


def next_token_shift(
    model: Model,
    prompts: Any,
    edits: Edits | Callable[[Sequences], Edits],
    *,
    tokens: str = "new",
    max_new_tokens: int = 16,
    answers: Mapping[str, Any] | None = None,
    batch_rows: int = 16,
    seed: int = 0,
    progress: Progress = None,
    **generate_kwargs: Any,
) -> Moved:
    """How far edits move next-token distributions: `KL(plain || edited)` and its kin at each token that counts.

    tokens: "new", along what the plain model writes after each prompt, `max_new_tokens` of it (greedily, or as
    generate_kwargs say, sampled with `seed`): the mean is then what a token of such a text costs in KL; "last", the
    first new token alone; "all", every token of the texts.
    Edits act as in a generation: "prompt", "generated" and "newest" mean what they do there. edits: edits, or a
    function from a batch (`Sequences`) to those of its rows. answers: sets of token ids, as in `core.shift`.
    Cost: with "new" one plain generation; then two forwards a batch without the head, scores at counted tokens alone.
    Raises: ModelError for a model that does not predict next tokens; InputError; else as `run`.
    """
    made = measured_sequences(
        model, prompts, tokens, max_new_tokens, batch_rows, progress, seed=seed, **generate_kwargs
    )
    predictions = Predictions.of(model, short(made[0]))
    parts, owners = [], []
    for k, seq in enumerate(made):
        tell(progress, "comparing predictions", k / len(made))
        base, moved = predictions.states(seq), predictions.states(seq, edits(seq) if callable(edits) else edits)
        own = {name: _rows_of(ids, seq) for name, ids in (answers or {}).items()}
        parts.append(predictions.shift(base, moved, own))
        owners.append(seq.owner)
    return Moved(Shift.cat(parts), torch.cat(owners))


def short(seq: Sequences) -> dict[str, Tensor]:
    """A few tokens, to try a head on."""
    assert seq.inputs.tokens is not None
    assert seq.inputs.mask is not None
    return {"input_ids": seq.inputs.tokens[0][seq.inputs.mask[0].bool()][None, :12]}


def _rows_of(ids: Any, seq: Sequences) -> Tensor:
    """Answers of the predictions of a batch, from answers for all or one set a prompt."""
    made = torch.as_tensor(ids)
    return made[seq.owner] if made.ndim == 2 and len(made) > 1 else made.reshape(-1)
