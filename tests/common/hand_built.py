"""A two-layer attention net whose weights were written by hand: its circuit is known.

The stream has four parts: which token (8), which position (12), which token came before (8), which token to say (8).
Head 0 of layer 0 copies the previous token; head 1 of layer 1 looks for where the present token was the previous one,
and says the token that stands there. The other heads and the MLPs do nothing. So [a, b, ..., a] is followed by b.
"""

import torch
import transformers

import inscape as ins

TOK, POS, PREV, OUT, WIDTH, HEAD = 0, 8, 20, 28, 40, 20
WRITES = (0, 0)  # (layer, head) of the head that copies the previous token
SAYS = (1, 1)  # (layer, head) of the one that finds it


def induction_by_hand(sharpness: float = 12.0) -> "ins.Model":
    config = transformers.GPT2Config(
        n_layer=2, n_head=2, n_embd=WIDTH, n_inner=8, vocab_size=8, n_positions=12, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=None, attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0,
    )  # fmt: skip
    module = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.fill_(1.0 if "ln_" in name and name.endswith("weight") else 0.0)
        body = module.transformer
        body.wte.weight[:, TOK : TOK + 8] = torch.eye(8)
        body.wpe.weight[:, POS : POS + 12] = torch.eye(12)
        first, second = (block.attn for block in body.h)
        _reads(first.c_attn.weight, 0, 0, POS + 1, 0, 11, sharpness)  # q of position p asks for p - 1
        _reads(first.c_attn.weight, 1, 0, POS, 0, 12, sharpness)
        _reads(first.c_attn.weight, 2, 0, TOK, 0, 8, 1.0)
        first.c_proj.weight[0:8, PREV : PREV + 8] = torch.eye(8)
        _reads(second.c_attn.weight, 0, 1, TOK, 0, 8, sharpness)
        _reads(second.c_attn.weight, 1, 1, PREV, 0, 8, sharpness)
        _reads(second.c_attn.weight, 2, 1, TOK, 0, 8, 1.0)
        second.c_proj.weight[HEAD : HEAD + 8, OUT : OUT + 8] = torch.eye(8)
        module.lm_head.weight[:, OUT : OUT + 8] = torch.eye(8)
    return ins.open(module)


def _reads(weight: torch.Tensor, which: int, head: int, part: int, to: int, n: int, size: float) -> None:
    """Let q (0), k (1) or v (2) of a head read n dimensions of the stream into its dimensions from `to` on."""
    start = which * WIDTH + head * HEAD + to
    weight[part : part + n, start : start + n] = torch.eye(n) * size
