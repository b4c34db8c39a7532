"""Other tools' names for the same places, with their off-by-one and input-or-output differences spelled out.

TransformerLens   blocks.3.hook_resid_post   layers.3.resid_post   the same tensor
                  blocks.3.attn.hook_z       layers.3.attn.z
Hugging Face      model.layers.3             layers.3.resid_post   a module path means its output
                  hidden_states[3]           layers.3.resid_pre    0 is the embedding; the last is after the norm
sparsify          layers.3, layers.3.mlp     layers.3.resid_post, layers.3.mlp_out
Neuronpedia       3-res, 3-mlp, 3-att        layers.3.resid_post, .mlp_out, .attn_out
vLLM              layer id 4                 layers.3.resid_post   id k is the stream after k layers
repeng, GGUF      direction.4                layers.3.resid_post   counts from 1
"""

import re
from typing import Any

_TL = {
    "hook_resid_pre": "resid_pre", "hook_resid_mid": "resid_mid", "hook_resid_post": "resid_post",
    "hook_attn_out": "attn_out", "hook_mlp_out": "mlp_out", "hook_attn_in": "attn.in", "hook_mlp_in": "mlp.in",
    "attn.hook_q": "attn.q", "attn.hook_rot_q": "attn.q", "attn.hook_k": "attn.k", "attn.hook_rot_k": "attn.k",
    "attn.hook_v": "attn.v", "attn.hook_z": "attn.z", "attn.hook_result": "attn.head_out",
    "attn.hook_attn_scores": "attn.scores", "attn.hook_pattern": "attn.pattern",
    "mlp.hook_pre": "mlp.pre", "mlp.hook_post": "mlp.act",
}  # fmt: skip
_TL_ROOT = {"hook_embed": "embed", "ln_final.hook_normalized": "final_norm", "unembed.hook_out": "logits"}
_SHORT = {"res": "resid_post", "mlp": "mlp_out", "att": "attn_out"}


def canonical(name: str, model: Any = None) -> str:
    """Our name for a name of TransformerLens, Hugging Face, sparsify or Neuronpedia; other names pass unchanged."""
    if name in _TL_ROOT:
        return _TL_ROOT[name]
    if (m := re.fullmatch(r"blocks\.(\d+|\*)\.(.+)", name)) and m[2] in _TL:
        return f"layers.{m[1]}.{_TL[m[2]]}"
    if (m := re.fullmatch(r"(\d+)-(res|mlp|att)(?:_?post)?(?:-.*)?", name)) is not None:
        return f"layers.{m[1]}.{_SHORT[m[2]]}"
    if (m := re.fullmatch(r"layers\.(\d+|\*)(?:\.(mlp|attn|self_attn))?", name)) is not None:
        return f"layers.{m[1]}." + {None: "resid_post", "mlp": "mlp_out"}.get(m[2], "attn_out")
    if model is not None and name not in model.points and "*" not in name:
        return _by_module(name, model)
    return name


def _by_module(path: str, model: Any) -> str:
    """A Hugging Face module path is the site whose value is that module's output."""
    for point in model.points.values():
        if point.kind == "module" and point.side == "out" and point.path == path:
            return point.name
    return path


def aliases(name: str) -> dict[str, str]:
    """What other tools call this site, by tool: transformer_lens, sparsify, neuronpedia, vllm, gguf, hidden_states."""
    found: dict[str, str] = {}
    for theirs, ours in _TL_ROOT.items():
        if ours == name:
            found["transformer_lens"] = theirs
    if (m := re.fullmatch(r"layers\.(\d+)\.(.+)", name)) is None:
        return found
    layer, short = int(m[1]), m[2]
    theirs = next((t for t, o in _TL.items() if o == short and "rot" not in t), None)
    if theirs:
        found["transformer_lens"] = f"blocks.{layer}.{theirs}"
    short_name = next((s for s, o in _SHORT.items() if o == short), None)
    if short_name:
        found["neuronpedia"] = f"{layer}-{short_name}"
    if short in ("resid_post", "mlp_out"):
        found["sparsify"] = f"layers.{layer}" + (".mlp" if short == "mlp_out" else "")
    if short == "resid_post":
        found |= {
            "vllm": str(layer + 1),
            "gguf": f"direction.{layer + 1}",
            "hidden_states": f"hidden_states[{layer + 1}]",
        }
    if short == "resid_pre":
        found |= {"vllm": str(layer), "hidden_states": f"hidden_states[{layer}]"}
    return found
