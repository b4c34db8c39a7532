"""A net of eight layers whose division of labour was written by hand: who reads whom, and when the answer stands.

The stream has six parts of eight dimensions, and one large constant, which keeps every norm's scale the same and so
every layer linear. Attention adds nothing; each MLP reads one part and writes another:

| layer | 0 | 1 | 2 | 3 | 4 | 5, 6, 7 |
|---|---|---|---|---|---|---|
| reads | token | token | token | what 1 wrote | what 3 wrote | token |
| writes | x | y | x | z | the answer | the answer, again |

So skipping 1 undoes 3 and 4, directly 3 alone; skipping 3 undoes 4; every other skip changes no later layer. The answer
stands after layer 4, and the last layers make it surer.
"""

from typing import Any

import torch

from inscape.core.extra import package

N, CONSTANT = 8, 1000.0
TOKEN, X, Y, Z, ANSWER = (N * i for i in range(5))
WIDTH = 64  # the last dimension holds the constant
PLAN = ((TOKEN, X), (TOKEN, Y), (TOKEN, X), (Y, Z), (Z, ANSWER), (TOKEN, ANSWER), (TOKEN, ANSWER), (TOKEN, ANSWER))
READS = {(1, 3): True, (3, 4): True, (1, 4): False}  # (skipped, layer undone): directly?
SETTLED = 4  # the answer stands after this layer


def layered_net(sure: float = 3.0) -> Any:
    """A Llama for causal language modelling with these weights; token i is answered by i + 1, the last by the first.

    sure: how much each of the last four layers adds to the score of the answer.
    """
    transformers = package("transformers", "hf", "the net of layers written by hand")
    config = transformers.LlamaConfig(
        vocab_size=N, hidden_size=WIDTH, intermediate_size=N, num_hidden_layers=len(PLAN), num_attention_heads=4,
        max_position_embeddings=64, tie_word_embeddings=False, rms_norm_eps=1e-12, bos_token_id=None,
        eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    module: Any = transformers.LlamaForCausalLM(config).eval()
    scale = CONSTANT / WIDTH**0.5  # what every norm divides by
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.fill_(1.0 if "norm" in name else 0.0)
        module.model.embed_tokens.weight[:, TOKEN : TOKEN + N] = torch.eye(N)
        module.model.embed_tokens.weight[:, -1] = CONSTANT
        for layer, (read, write) in zip(module.model.layers, PLAN, strict=True):
            layer.mlp.gate_proj.weight[:, -1] = 20.0 / WIDTH**0.5  # silu(20) = 20: the gates stand open
            layer.mlp.up_proj.weight[:, read : read + N] = torch.eye(N) * scale / 20.0
            moved = torch.eye(N).roll(1, 0) if write == Z or (read, write) == (TOKEN, ANSWER) else torch.eye(N)
            layer.mlp.down_proj.weight[write : write + N] = moved
        module.lm_head.weight[:, ANSWER : ANSWER + N] = torch.eye(N) * scale * sure
    return module
