"""Prompts with the text that should follow them: as batches, and how likely the model finds that text."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inscape.core.direction import Direction
from inscape.core.edit import Edit
from inscape.core.edits.add import add
from inscape.core.errors import InputError, ModelError
from inscape.engine.forward import run
from inscape.engine.inputs import check_vocabulary, pad_of, padded, tokenizer_of
from inscape.engine.unembed import Unembedding, reads_as_the_model_does, unembedding
from inscape.models.model import Model
from inscape.steer.states import check_texts
from inscape.store.items import items_of

POSITIONS = ("all", "prompt", "target", "predicting", "last")


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of prompt and target, padded on the right. prompt: tokens of each prompt; whole: of both."""

    tokens: Int[Tensor, "batch pos"]
    prompt: Int[Tensor, " batch"]
    whole: Int[Tensor, " batch"]

    @property
    def inputs(self) -> dict[str, Tensor]:
        return {"input_ids": self.tokens, "attention_mask": self._columns < self.whole[:, None]}

    @property
    def _columns(self) -> Int[Tensor, " pos"]:
        return torch.arange(self.tokens.shape[1])

    def places(self, where: str) -> Bool[Tensor, "batch pos"]:
        """Columns of the prompt, its last token, the target, the tokens that predict the target, or all."""
        c, p, n = self._columns, self.prompt[:, None], self.whole[:, None]
        return {"all": c < n, "prompt": c < p, "last": c == p - 1, "target": (c >= p) & (c < n),
                "predicting": (c >= p - 1) & (c < n - 1)}[where]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Examples:
    """Prompts and targets as token ids, and how their scores are made.

    head: from the final stream at the target's tokens alone; None where a model's own output has to be taken.
    """

    model: Model
    prompts: list[list[int]]
    targets: list[list[int]]
    head: Unembedding | None

    @classmethod
    def of(cls, model: Model, prompts: Any, targets: Any) -> "Examples":
        """Texts or token ids; a prompt is tokenised as usual, its target without special tokens, and put behind it."""
        given, wanted = check_texts(prompts, "prompts"), check_texts(targets, "targets")
        if len(given) != len(wanted):
            raise InputError(f"{len(given)} prompts and {len(wanted)} targets: give one target a prompt.")
        if "logits" not in model.sites:
            raise ModelError(f"{type(model.module).__name__} does not score tokens: no target can be made likelier.")
        before = [list(item.source.ids) if item.source is not None else [] for item in items_of(model, given)]
        after = [_ids(model, one) for one in wanted]
        for name, rows in (("prompt", before), ("target", after)):
            if not all(rows):
                raise InputError(f"{name} {next(i for i, r in enumerate(rows) if not r)} has no tokens.")
        check_vocabulary(model, torch.tensor([i for row in (*before, *after) for i in row]))
        try:
            head = unembedding(model)
            short = {"input_ids": torch.tensor([before[0][:12]])}
            head = head if reads_as_the_model_does(model, head, short) <= 5e-2 else None
        except ModelError:
            head = None
        return cls(model, before, after, head)

    def __len__(self) -> int:
        return len(self.prompts)

    def batch(self, rows: Sequence[int]) -> Batch:
        both = [[*self.prompts[i], *self.targets[i]] for i in rows]
        prompt, whole = (torch.tensor([len(x) for x in part]) for part in ([self.prompts[i] for i in rows], both))
        return Batch(padded(both, pad_of(self.model)), prompt, whole)

    def scores(self, batch: Batch, edits: Sequence[Edit], *, grad: bool = False) -> Float[Tensor, "token vocab"]:
        """Scores at the tokens that predict the targets, row by row, in float32."""
        row, column = batch.places("predicting").nonzero(as_tuple=True)
        device = self.model.device
        inputs = {name: x.to(device) for name, x in batch.inputs.items()}
        if self.head is None:
            out = run(self.model, inputs, edits=edits, output=True, grad=grad).output
            return out.logits[row.to(out.logits.device), column.to(out.logits.device)].float()
        prefix = self.model.blocks[0].name.rsplit("layers.", 1)[0]
        is_normed = self.head.norm is not None and f"{prefix}final_norm" in self.model.sites
        site = f"{prefix}final_norm" if is_normed else f"{self.model.blocks[-1].name}.resid_post"
        state = run(self.model, inputs, read=site, edits=edits, grad=grad)[site]
        return self.head(state[row.to(state.device), column.to(state.device)], is_normed)

    def losses(
        self, batch: Batch, edits: Sequence[Edit], *, coldness: float = 1.0, grad: bool = False
    ) -> Float[Tensor, " batch"]:
        """Cross-entropy of each row's target given its prompt, in nats a token. coldness: what scores are times."""
        row, column = batch.places("predicting").nonzero(as_tuple=True)
        wanted = batch.tokens[row, column + 1]
        scores = self.scores(batch, edits, grad=grad)
        nats = torch.nn.functional.cross_entropy(coldness * scores, wanted.to(scores.device), reduction="none")
        total = torch.zeros(len(batch.prompt), device=nats.device).index_add(0, row.to(nats.device), nats)
        return total / (batch.whole - batch.prompt).to(nats.device)


def target_losses(
    model: Model,
    prompts: Sequence[Any],
    targets: Sequence[Any],
    *,
    edits: Sequence[Edit] = (),
    directions: Sequence[Direction] = (),
    positions: str = "all",
    batch_rows: int = 8,
) -> Float[Tensor, " n"]:
    """Cross-entropy of each target given its prompt, in nats a token: how likely the model finds the text.

    Give edits that act everywhere, at the prompt or row-independent positions; they see prompt and target as one text.
    directions: added at `positions` of each example, as `optimise_direction` trains them there.
    Cost: one forward an example, scores at the target's tokens only.
    Raises: InputError for lists of unlike length, texts without tokens, other positions; ModelError without scores.
    """
    if positions not in POSITIONS:
        raise InputError(f"positions={positions!r} is none of {', '.join(map(repr, POSITIONS))}.")
    examples = Examples.of(model, prompts, targets)
    order = sorted(range(len(examples)), key=lambda i: len(examples.prompts[i]) + len(examples.targets[i]))
    out = torch.zeros(len(examples))
    for start in range(0, len(order), batch_rows):
        rows = order[start : start + batch_rows]
        batch = examples.batch(rows)
        added = [add(d, at=batch.places(positions)) for d in directions]
        out[rows] = examples.losses(batch, [*edits, *added]).float().cpu()
    return out


@contextmanager
def frozen(model: Model) -> Iterator[None]:
    """No parameter of the model asks for a gradient meanwhile."""
    asked = [p for p in model.module.parameters() if p.requires_grad]
    try:
        for p in asked:
            p.requires_grad_(False)
        yield
    finally:
        for p in asked:
            p.requires_grad_(True)


def _ids(model: Model, target: Any) -> list[int]:
    if isinstance(target, str):
        return list(tokenizer_of(model)(target, add_special_tokens=False)["input_ids"])
    return [int(i) for i in target]
