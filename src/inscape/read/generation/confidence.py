"""How sure a model was while it generated: the baselines that signals of its states are compared with."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.step import Step

MEASURES = ("log_prob", "entropy", "margin")


@dataclass(eq=False)
class ConfidenceStream:
    """Watches the scores of a generation: mean log probability of what was chosen, entropy, and the lead of the first.

    Of the model's own scores at temperature 1, whatever was sampled with. The last new token is chosen and not fed, so
    it does not count; nor do tokens from the first of `stop` on. Memory: one row of scores.
    Cost: a softmax over the vocabulary a token. log_prob and entropy in nats; margin: probability of the first minus
    that of the second.
    """

    stop: tuple[int, ...] = ()
    sites: Sequence[str] = ("logits",)

    _last: Tensor | None = None
    _sum: Tensor | None = None
    _open: Tensor | None = None

    def begin(self, sites: tuple[str, ...]) -> None:
        self._last = self._sum = self._open = None

    def keep(self, x: Tensor, step: Step) -> Tensor:
        return x[:, -1:]

    def see(self, values: Sequence[Tensor], step: Step, live: Bool[Tensor, "batch pos"]) -> None:
        log_p = values[0][:, -1].float().log_softmax(-1)
        if self._last is not None:
            if step.tokens is None:
                raise InputError("the probability of what was chosen needs tokens, and these inputs are none.")
            fed = step.tokens[:, -1].to(log_p.device)
            there = live[:, -1].to(log_p.device)
            if self.stop:
                there = there & ~torch.isin(fed, torch.tensor(self.stop, device=fed.device))
            self._open = there if self._open is None else self._open & there
            top = self._last.topk(2, dim=-1).values.exp()
            now = torch.stack([
                self._last.gather(1, fed[:, None])[:, 0],
                -(self._last.exp() * self._last).nan_to_num(0.0).sum(-1),
                top[:, 0] - top[:, 1],
                torch.ones_like(top[:, 0]),
            ])  # fmt: skip
            now = torch.where(self._open, now, 0.0)
            self._sum = now if self._sum is None else self._sum + now
        self._last = log_p

    @property
    def table(self) -> Float[Tensor, "trace measure"]:
        """Means over the tokens: log_prob, entropy, margin. Raises: InputError before a token was chosen."""
        if self._sum is None:
            raise InputError("nothing was watched yet.\n  pass this to ins.generate(..., watch=...).")
        return (self._sum[:3] / self._sum[3].clamp(min=1)).T.double().cpu()


def layer_geometry(latest: Float[Tensor, "trace layer d"]) -> Float[Tensor, "trace two"]:
    """How far and by which angle the state of one token moves across the layers: mean step length over the mean
    length, and mean angle between neighbours in radians. A baseline that looks at layers, where trajectories look at
    tokens. latest: `TrajectoryStream.latest`, the last token's states."""
    x = latest.double()
    if x.shape[1] < 2:
        raise InputError("geometry across layers needs two layers.")
    step = x.diff(dim=1).norm(dim=-1).mean(1) / x.norm(dim=-1).mean(1)
    cosine = torch.nn.functional.cosine_similarity(x[:, 1:], x[:, :-1], dim=-1).clamp(-1, 1)
    return torch.stack([step, cosine.acos().mean(1)], 1)
