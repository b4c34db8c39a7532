"""Small GPT-2s whose insides are known: what each layer writes is set by hand."""

import torch
import transformers

import inscape as ins


def silent_gpt2(writes: dict[int, torch.Tensor] | None = None, seed: int = 0) -> "ins.Model":
    """Three layers that add nothing; layer i adds the constant `writes[i]` by its MLP's bias, exactly."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        config = transformers.GPT2Config(
            n_layer=3, n_embd=32, n_head=4, vocab_size=64, n_positions=64, bos_token_id=1, eos_token_id=None
        )
        module = transformers.GPT2LMHeadModel(config).eval()
        module.transformer.wte.weight.normal_()
        for index, block in enumerate(module.transformer.h):
            for projection in (block.attn.c_proj, block.mlp.c_proj):
                projection.weight.zero_()
                projection.bias.zero_()
            if writes and index in writes:
                block.mlp.c_proj.bias.copy_(writes[index])
    return ins.open(module)


def positional_gpt2(offset: int) -> "ins.Model":
    """One layer, one head: a token at position i looks at position i - offset and nowhere else.

    Positions are orthonormal vectors r_i; W_Q maps r_i to r_{i - offset}, W_K is the identity; both large.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        config = transformers.GPT2Config(
            n_layer=1, n_embd=64, n_head=1, vocab_size=128, n_positions=60, bos_token_id=1, eos_token_id=None
        )
        module = transformers.GPT2LMHeadModel(config).eval()
        r = torch.linalg.qr(torch.randn(64, 64))[0]
        r = torch.linalg.qr((r - r.mean(1, keepdim=True)).T)[0].T[:60]
        module.transformer.wte.weight.zero_()
        module.transformer.wpe.weight.copy_(r)
        attention = module.transformer.h[0].attn.c_attn
        attention.weight.zero_()
        attention.bias.zero_()
        for i in range(60):
            attention.weight[:, :64] += 3 * torch.outer(r[i], r[max(i - offset, 0)])
        attention.weight[:, 64:128] = 3 * torch.eye(64)
    return ins.open(module)


def even_gpt2() -> "ins.Model":
    """Queries are zero, so every head spreads its attention evenly."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        config = transformers.GPT2Config(
            n_layer=2, n_embd=32, n_head=4, vocab_size=128, n_positions=64, bos_token_id=1, eos_token_id=None
        )
        module = transformers.GPT2LMHeadModel(config).eval()
        for block in module.transformer.h:
            block.attn.c_attn.weight[:, :32] = 0
            block.attn.c_attn.bias[:32] = 0
    return ins.open(module)


def sink_gpt2(token: int = 7) -> "ins.Model":
    """Every head of two layers looks at one token, wherever it stands: the queries are its key, whatever asks."""
    model = even_gpt2()
    with torch.no_grad():
        embedding = model.module.transformer.wte.weight
        model.module.transformer.wpe.weight.zero_()
        embedding[token] = 0
        embedding[token, :8] = 6 * torch.tensor([1.0, -1.0] * 4)
        for block in model.module.transformer.h:
            for projection in (block.attn.c_proj, block.mlp.c_proj):
                projection.weight.zero_()
                projection.bias.zero_()
            asked = block.ln_1(embedding[token])
            block.attn.c_attn.weight[:, 32:64] = torch.eye(32)[:, torch.arange(8).repeat(4)]  # each head sees units 0-7
            block.attn.c_attn.bias[:64] = 0
            block.attn.c_attn.bias[:32] = 3 * asked[:8].repeat(4)
    return model
