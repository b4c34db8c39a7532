"""The small net that reads signatures: steps become vectors, a transformer (or a flat MLP) reads them."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

PARTS = ("top", "actual", "rank")


class SignatureNet(nn.Module):
    """From a normalised signature to one number.

    A step is [Linear(top), actual], each half the width:
        actual = a r p1 + a p2          rank_encoding "scale": r = 1 - 2 rank / n_vocab, p1 and p2 learned vectors
        actual = a Emb(rank) + a p2     "onehot": a vector a rank, one for all ranks that are not kept
    with `a` the normalised probability of the token that came. Without "top" among the inputs the second half is all
    there is, without "rank" its first term is gone. body: "transformer", post-norm layers over [CLS, steps] with
    learned positions, read at CLS; "mlp", one hidden layer over all steps at once.
    """

    def __init__(
        self, *, k: int, width: int, layers: int, heads: int, n_max: int, rank_encoding: str, mask_padding: bool,
        inputs: Sequence[str], body: str, dropout: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.inputs, self.body, self.mask_padding = tuple(inputs), body, mask_padding
        half = width // 2 if "top" in inputs else width
        self.top = nn.Linear(k, width - half) if "top" in inputs else None
        self.scale = nn.Parameter(torch.randn(half) * half**-0.5) if "rank" in inputs else None
        self.ranks = nn.Embedding(k + 1, half) if "rank" in inputs and rank_encoding == "onehot" else None
        self.shift = nn.Parameter(torch.randn(half) * half**-0.5)
        if body == "transformer":
            self.cls = nn.Parameter(torch.randn(width) * 0.02)
            self.positions = nn.Parameter(torch.randn(n_max + 1, width) * 0.02)
            layer = nn.TransformerEncoderLayer(width, heads, width, dropout, batch_first=True)
            self.reader: nn.Module = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        else:
            self.reader = nn.Sequential(nn.Flatten(), nn.Linear(n_max * width, width), nn.ReLU(), nn.Dropout(dropout))
        self.out = nn.Linear(width, 1)

    def forward(
        self,
        top: Float[Tensor, "item step k"],
        actual: Float[Tensor, "item step"],
        rank: Float[Tensor, "item step"],
        place: Float[Tensor, "item step"],
        mask: Bool[Tensor, "item step"],
    ) -> tuple[Float[Tensor, " item"], Float[Tensor, "item width"]]:
        """Logits and what they are read from. rank: scaled to [-1, 1]; place: the rank itself, at most k."""
        a = actual[..., None]
        came = a * self.shift
        if self.ranks is not None:
            came = came + a * self.ranks(place.long())
        elif self.scale is not None:
            came = came + a * rank[..., None] * self.scale
        x = torch.cat([self.top(top), came], -1) if self.top is not None else came
        x = x * mask[..., None]  # padding is zeros in the source too
        if self.body == "transformer":
            x = torch.cat([self.cls.expand(len(x), 1, -1), x], 1) + self.positions[: x.shape[1] + 1]
            seen = torch.cat([mask.new_ones(len(mask), 1), mask], 1)
            pooled = self.reader(x, src_key_padding_mask=~seen if self.mask_padding else None)[:, 0]
        else:
            pooled = self.reader(x)
        return self.out(pooled)[:, 0], pooled
