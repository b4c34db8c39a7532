"""Which columns a call covers: counted at the module itself, so that cached steps know where they are."""

from typing import Any

import torch
from torch import Tensor

from inscape.core.step import Step
from inscape.engine.session import Session

CACHES = ("past_key_values", "cache_params", "layer_past", "state")


class Columns:
    """Knows the step of every call of one sequence, plain or cached.

    mask: real tokens of the prompt [batch, pos] (None: every column is real). Stacks that read something else than
    the tokens (vision towers, encoders of a decoder's text) get plain columns of their own.
    remembers: rows keep their places from call to call (no beams), so that a step may know the tokens before it.
    """

    def __init__(
        self, mask: Tensor | None, tokens: Tensor | None, prompt: int | None, main: frozenset[str],
        remembers: bool = False,
    ) -> None:  # fmt: skip
        self.remembers = remembers
        self.prompt_mask, self.prompt_tokens, self.main = mask, tokens, main
        self.prompt = prompt
        self._step: Step | None = None
        self._made = mask is None
        self.rows = mask.shape[0] if mask is not None else None
        self.kept: dict[object, Any] = {}
        self.others: dict[tuple[str, int, int], Step] = {}

    @property
    def step(self) -> Step | None:
        """The step under way; made when first asked for, since most runs never ask."""
        if not self._made and self.prompt_mask is not None:
            self.step = Step.of_mask(self.prompt_mask, 0, self.prompt_tokens, self.prompt)
        return self._step

    @step.setter
    def step(self, value: Step | None) -> None:
        self._step, self._made = value, True

    def __call__(self, session: Session, prefix: str, x: Tensor | None) -> Step:
        if prefix in self.main and self.step is not None:
            step = self.step
            if (
                x is None
                or x.ndim < 2
                or x.shape[1] == step.stop - step.start
                or x.shape[0] == step.batch * (step.stop - step.start)
            ):
                return step
        if x is None:
            return self.step or Step.plain(1, 1)
        if (
            prefix.startswith("encoder")
            and self.prompt_mask is not None
            and x.ndim > 2
            and self.prompt_mask.shape == x.shape[:2]
        ):
            return Step.of_mask(self.prompt_mask, 0, self.prompt_tokens)
        key = (prefix, x.shape[0], x.shape[1]) if x.ndim > 2 or x.is_meta else (prefix, 1, x.shape[0])
        if key not in self.others:
            self.others[key] = Step.plain(key[1], key[2])
        return self.others[key]

    def follow(self, session: Session, args: tuple, kwargs: dict) -> None:
        """Before every forward of the whole model: where does this call start?"""
        fed = kwargs.get("decoder_input_ids")
        is_decoder = fed is not None
        if fed is None:
            fed = kwargs.get("input_ids")
        if fed is None:
            fed = next((a for a in args if isinstance(a, Tensor)), kwargs.get("inputs_embeds"))
        if not isinstance(fed, Tensor) or fed.ndim < 2:
            return
        batch, width = fed.shape[:2]
        tokens = fed if fed.ndim == 2 and not fed.is_floating_point() else None
        mask = kwargs.get("decoder_attention_mask" if is_decoder else "attention_mask")
        mask = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None
        start = self._start(kwargs, mask, width)
        old = self._step
        if start == 0:
            self.kept = {}
        if width == 1 and old is not None and start == old.stop and old.real.shape[0] == batch and _goes_on(mask):
            real = torch.cat([old.real, old.lengths[:, None]], 1)  # one more real token a row: the common cached step
            past = self._past(start, batch, old)
            self.step = Step(
                start, start + 1, real, tokens, old.prompt, past=past, n_repeats=old.n_repeats, kept=self.kept
            )
            session.held.clear()
            return
        if start == 0 and (self.step is None or self.prompt is None or width < self.prompt):
            self.prompt = width
        if self.prompt is None:
            self.prompt = width
        if mask is None or mask.shape[1] != start + width:
            mask = self._own_mask(batch, start + width, is_decoder)
        repeats = batch // self.rows if self.rows and batch % self.rows == 0 else 1
        past = self._past(start, batch, old)
        self.step = Step.of_mask(mask, start, tokens, self.prompt)
        self.step.past = past
        self.step.n_repeats, self.step.kept = repeats, self.kept
        session.held.clear()

    def _past(self, start: int, batch: int, old: Step | None) -> Tensor | None:
        """Ids of the columns before `start`, when the step before ended there and rows stay where they are."""
        if not self.remembers or start == 0 or old is None or old.tokens is None or old.batch != batch:
            return None
        if old.stop != start or (old.start > 0 and old.past is None):
            return None
        return old.tokens if old.past is None else torch.cat([old.past, old.tokens], 1)

    def _start(self, kwargs: dict, mask: Tensor | None, width: int) -> int:
        cache = next((kwargs[n] for n in CACHES if kwargs.get(n) is not None), None)
        if cache is None:
            return 0
        if mask is not None and mask.shape[1] >= width and self.step is not None:
            return mask.shape[1] - width
        try:
            return int(cache.get_seq_length())
        except (
            ValueError,
            AttributeError,
            TypeError,
        ):  # recurrent caches do not know; a new call goes on where the last ended
            return self.step.stop if self.step is not None and width == 1 else 0

    def _own_mask(self, batch: int, columns: int, is_decoder: bool) -> Tensor:
        mask = torch.ones(batch, columns, dtype=torch.bool)
        if self.prompt_mask is not None and not is_decoder:
            known = self.prompt_mask.cpu().bool()
            if batch % known.shape[0] == 0:
                known = known.repeat_interleave(batch // known.shape[0], 0)[:, :columns]
                mask[:, : known.shape[1]] = known
        return mask


def _goes_on(mask: Tensor | None) -> bool:
    """Is the newest column real in every row?"""
    return mask is None or bool(mask[:, -1].all())
