"""What a norm does besides dividing by a size: its gain, its bias, and whether it takes the mean away.

Found by asking the module, so that one text serves LayerNorm, RMSNorm, Gemma's 1 + w, norms without weights and norms
with a gain a head.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

LENGTH = 16.0  # of every entry of the question: the eps under the root (1e-5 at most) is nothing beside its square


@dataclass(frozen=True, eq=False)
class Norm:
    """`norm(x) = gain * c(x) / size(x) + bias`: size is the root mean square of `c(x)`; c takes means, if `centred`."""

    gain: Float[Tensor, "*axes d"]
    bias: Float[Tensor, "*axes d"]
    centred: bool

    def without_size(self, x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"]:
        """`gain * c(x)`: what is linear in x."""
        x = x.to(self.gain)
        return (x - x.mean(-1, keepdim=True) if self.centred else x) * self.gain

    def size(self, x: Float[Tensor, "*rows d"], y: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows one"]:
        """What the module divided by to make y of x: `|gain c(x)|^2 / <y - bias, gain c(x)>`, its eps included."""
        linear, rest = self.without_size(x).double(), (y.to(self.gain) - self.bias).double()
        return ((linear * linear).sum(-1, keepdim=True) / (linear * rest).sum(-1, keepdim=True)).to(self.gain)

    @property
    def kind(self) -> str:
        return "LayerNorm" if self.centred else "RMSNorm"


def norm_of(module: nn.Module, axes: tuple[int, ...], like: Tensor) -> Norm | None:
    """The norm that this module is for inputs whose last axes are `axes`; None when it is none.

    like: a tensor whose dtype and device the inputs have. Checked on random vectors: gain, bias and centring must give
    what the module gives. Asked in float32 where the module takes it, so that half precision rounds nothing.
    """
    wide = torch.promote_types(like.dtype, torch.float32)
    for dtype in dict.fromkeys((wide, like.dtype)):
        found = _norm_of(module, axes, torch.zeros(0, dtype=dtype, device=like.device))
        if found is not None:
            return found
    return None


def _norm_of(module: nn.Module, axes: tuple[int, ...], like: Tensor) -> Norm | None:
    generator = torch.Generator().manual_seed(0)
    question = torch.where(torch.rand(axes, generator=generator) < 0.5, -1.0, 1.0)
    question = question + 0.1 * torch.randn(axes, generator=generator).clamp(-3, 3)
    question = question - question.mean(-1, keepdim=True)
    question = (question / question.square().mean(-1, keepdim=True).sqrt() * LENGTH).to(like)
    with torch.no_grad():
        try:
            bias, answer = _ask(module, torch.zeros_like(question)), _ask(module, question)
            probes = torch.randn((4, *axes), generator=generator).to(like) * 3 + 1
            answers = torch.stack([_ask(module, p) for p in probes])
        except (RuntimeError, TypeError, ValueError, IndexError):
            return None  # whatever a module raises that takes other shapes or more inputs: it is no norm of these axes
    if answer.shape != question.shape or not bool(torch.isfinite(answer).all()):
        return None
    wide = torch.promote_types(like.dtype, torch.float32)
    question, answer, bias, probes, answers = (t.to(wide) for t in (question, answer, bias, probes, answers))
    tolerance = 1e-3 if torch.finfo(like.dtype).eps < 1e-5 else 5e-2
    for centred in (True, False):
        norm = Norm((answer - bias) / (question / LENGTH), bias, centred)
        inner = probes - probes.mean(-1, keepdim=True) if centred else probes
        made = norm.without_size(probes) / inner.square().mean(-1, keepdim=True).sqrt() + norm.bias
        if float((made - answers).norm() / answers.norm().clamp(min=1e-9)) < tolerance:
            return norm
    return None


def _ask(module: nn.Module, x: Tensor) -> Tensor:
    """Norms of single heads take [batch, pos, head, d]; those of the stream [batch, pos, d]."""
    out = module(x[None, None])
    out = out if isinstance(out, Tensor) else out[0]
    return out[0, 0] if out.shape == (1, 1, *x.shape) else out  # a gain a head spreads over inputs of one head
