"""Small models for the engine's own tests: a random GPT-2 whose weights are large enough that edits matter."""

import torch
import transformers

import inscape as ins
from tests.common.shared import shared


@shared
def gpt2_module(layers: int = 3) -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=layers,
        n_embd=32,
        n_head=4,
        vocab_size=64,
        n_positions=128,
        bos_token_id=1,
        eos_token_id=None,
        pad_token_id=0,
    )
    module = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn_like(p) * 0.15)
    return module


def gpt2() -> "ins.Model":
    return ins.open(gpt2_module())


def hooks_left(module: torch.nn.Module, *, transformers_own: bool = False) -> int:
    """Hooks on a module; without those that transformers puts on blocks when states are asked for, and keeps."""
    hooks = [h for m in module.modules() for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]
    return sum(transformers_own or "output_capturing" not in getattr(hook, "__module__", "") for hook in hooks)


def direction(site: str = "layers.1.resid_post", seed: int = 0, width: int = 32) -> "ins.Direction":
    return ins.Direction(site, torch.randn(width, generator=torch.Generator().manual_seed(seed)), f"random {seed}")
