"""Small models of architectures that have no table: what inference and its proofs must cope with."""

from collections.abc import Callable

import torch
import transformers
from torch import nn

from tests.common.shared import shared

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 64, "intermediate_size": 48}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def jittered(module: nn.Module) -> nn.Module:
    """Every parameter moved, so that no scale is 1, no bias 0 and no part too small to matter."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.15)
    return module.eval()


class Attention(nn.Module):
    def __init__(self, width: int, n_head: int) -> None:
        super().__init__()
        self.n_head = n_head
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (t.unflatten(-1, (self.n_head, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        z = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(z.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width: int, n_head: int) -> None:
        super().__init__()
        self.ln1, self.attn, self.ln2 = nn.LayerNorm(width), Attention(width, n_head), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class Tiny(nn.Module):
    """A hand-written GPT, as in a tutorial."""

    def __init__(self, width: int = 32, layers: int = 3) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(64, width), nn.Embedding(32, width)
        self.blocks = nn.ModuleList(Block(width, 4) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 64, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def _hf(model: str, config: str, **changes: object) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        settings = SMALL | IDS | changes
        settings = {k: v for k, v in settings.items() if v is not None}
        return jittered(getattr(transformers, model)(getattr(transformers, config)(**settings)))

    return build


_GPT = {"hidden_size": None, "num_hidden_layers": None, "num_attention_heads": None, "intermediate_size": None}
BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "stablelm": _hf("StableLmForCausalLM", "StableLmConfig", num_key_value_heads=2),
    "persimmon": _hf("PersimmonForCausalLM", "PersimmonConfig"),
    "mpt": _hf("MptForCausalLM", "MptConfig", **_GPT, d_model=32, n_heads=4, n_layers=3, max_seq_len=64),
    "gpt_bigcode": _hf(
        "GPTBigCodeForCausalLM", "GPTBigCodeConfig", **_GPT, n_embd=32, n_head=4, n_layer=3, n_positions=64
    ),
    "xglm": _hf("XGLMForCausalLM", "XGLMConfig", **_GPT, d_model=32, ffn_dim=48, num_layers=3, attention_heads=4),
    "codegen": _hf(
        "CodeGenForCausalLM", "CodeGenConfig", **_GPT, n_embd=32, n_head=4, n_layer=3, n_positions=64, rotary_dim=4
    ),
    "nemotron": _hf("NemotronForCausalLM", "NemotronConfig", num_key_value_heads=2, head_dim=8),
    "glm": _hf("GlmForCausalLM", "GlmConfig", num_key_value_heads=2, head_dim=8),
    "electra": _hf("ElectraForMaskedLM", "ElectraConfig", embedding_size=32),
    "albert": _hf("AlbertForMaskedLM", "AlbertConfig", embedding_size=16),
    "deberta": _hf("DebertaV2ForMaskedLM", "DebertaV2Config", relative_attention=True, pos_att_type=["c2p", "p2c"]),
    "pegasus": _hf(
        "PegasusForConditionalGeneration",
        "PegasusConfig",
        **_GPT,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        decoder_start_token_id=1,
    ),
    "tiny": lambda: jittered(Tiny()),
    "torch_encoder": lambda: jittered(
        nn.TransformerEncoder(
            nn.TransformerEncoderLayer(32, 4, 48, dropout=0.0, batch_first=True, norm_first=True),
            3,
            enable_nested_tensor=False,
        )
    ),
    "torch_encoder_post_norm": lambda: jittered(
        nn.TransformerEncoder(
            nn.TransformerEncoderLayer(32, 4, 48, dropout=0.0, batch_first=True), 3, enable_nested_tensor=False
        )
    ),
    "mlp": lambda: jittered(
        nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 4))
    ),
}


@shared
def unknown(name: str) -> nn.Module:
    """The module of that name, built once."""
    torch.manual_seed(0)
    return BUILDERS[name]()
