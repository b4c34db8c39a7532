"""Other tools' names for the same places, with their off-by-one and input-or-output differences spelled out.

TransformerLens   blocks.3.hook_resid_post    layers.3.resid_post   the same tensor, unless it folded norms into weights
TransformerLens   blocks.3.hook_resid_post    layers.3.resid_post   the same, unless it folded norms into weights
                  blocks.3.hook_mlp_in        (none)                before the norm; our mlp.in is after it: refused
Hugging Face      model.layers.3              layers.3.resid_post   a module path means its output
                  hidden_states[3]            layers.2.resid_post   counts from the embedding; [-1] is after the norm
sparsify          layers.3, layers.3.mlp      layers.3.resid_post, and that module's output
Neuronpedia       3-res, 3-mlp                layers.3.resid_post, .mlp_out; a source set may mean another place
vLLM              vllm:4                      layers.3.resid_post   layer id k is the stream after k layers
llama.cpp, repeng direction.3                 layers.3.resid_post   the output of block 3; block 0 has no name there
"""

import re
from typing import Any

from inscape.core.errors import SiteError

_TL = {
    "hook_resid_pre": "resid_pre", "hook_resid_mid": "resid_mid", "hook_resid_post": "resid_post",
    "hook_attn_out": "attn_out", "hook_mlp_out": "mlp_out",
    "attn.hook_rot_q": "attn.q", "attn.hook_rot_k": "attn.k", "attn.hook_q": "attn.q", "attn.hook_k": "attn.k",
    "attn.hook_v": "attn.v", "attn.hook_z": "attn.z", "attn.hook_result": "attn.head_out",
    "attn.hook_attn_scores": "attn.scores", "attn.hook_pattern": "attn.pattern",
    "mlp.hook_pre": "mlp.pre", "mlp.hook_post": "mlp.act",
}  # fmt: skip
_TL_ROOT = {"hook_embed": "embed"}
_TL_NONE = {  # near misses: a tensor that this package does not name, beside what it is easily taken for
    "hook_attn_in": "the stream before the norm, once a head; attn.in is after the norm, resid_pre before it",
    "hook_mlp_in": "the stream before the norm; mlp.in is after the norm, resid_mid before it",
    "hook_q_input": "the stream before the norm, once a head; attn.in is after the norm, resid_pre before it",
    "hook_k_input": "the stream before the norm, once a head; attn.in is after the norm, resid_pre before it",
    "hook_v_input": "the stream before the norm, once a head; attn.in is after the norm, resid_pre before it",
    "ln1.hook_normalized": "without the norm's gain on most models; attn.in has it, as attention reads it",
    "ln2.hook_normalized": "without the norm's gain on most models; mlp.in has it, as the MLP reads it",
    "ln_final.hook_normalized": "without the norm's gain on most models; final_norm has it, as the head reads it",
    "unembed.hook_out": "before the soft cap, and centred by default; logits is what the model returns",
}
# Neuronpedia's source sets (the part after "6-"): first pattern that fits; None where the family decides
_SETS = (
    (r"res-jb", None),  # resid_pre on GPT-2 small, resid_post on every later model
    (r"res_mid.*", "resid_mid"),
    (r"(res|res_post|res_post_.*|res-.*|gemmascope-res-.*|llamascope-res-.*)", "resid_post"),
    (r"(mlp|mlp_.*-oai|gemmascope-mlp-.*|llamascope-mlp-.*)", "mlp_out"),
    (r"(att-kk|gemmascope-att-.*)", "attn.z"),
    (r"(att_.*-oai|llamascope-att-.*)", "attn_out"),
)
_ROTARY = ("rope_parameters", "rope_theta", "rotary_dim", "rotary_pct", "rope_scaling")
_SHORT = {"resid_post": "res", "mlp_out": "mlp"}


def canonical(name: str, model: Any = None) -> str:
    """Our name for another tool's name; names of nobody pass unchanged.

    Raises SiteError where the other tool's name means a tensor that is easily taken for one of ours and is not.
    """
    if name in _TL_ROOT:
        return _TL_ROOT[name]
    if name in _TL_NONE:
        raise SiteError(f"{name} of TransformerLens has no name here: it is {_TL_NONE[name]}.")
    if (m := re.fullmatch(r"blocks\.(\d+|\*)\.(.+)", name)) is not None:
        return _transformer_lens(name, m[1], m[2], model)
    if (m := re.fullmatch(r"(\d+)-([a-z].*)", name)) is not None:
        return f"layers.{m[1]}.{_neuronpedia(name, m[2], model)}"
    if (m := re.fullmatch(r"(?:vllm:(\d+)|hidden_states\[(-?\d+)\])", name)) is not None:
        return _after_layers(name, int(m[1] or m[2]), model)
    if (m := re.fullmatch(r"direction\.(\d+)", name)) is not None:
        if m[1] == "0":
            raise SiteError("direction.0 names nothing: control vectors begin at direction.1, the output of block 1.")
        return f"layers.{m[1]}.resid_post"
    if (m := re.fullmatch(r"layers\.(\d+|\*)", name)) is not None:
        return f"layers.{m[1]}.resid_post"
    if model is not None and name not in model.points and "*" not in name:
        return _by_module(name, model)
    return name


def _transformer_lens(name: str, layer: str, short: str, model: Any) -> str:
    if short in _TL_NONE:
        raise SiteError(f"{name} of TransformerLens has no name here: it is {_TL_NONE[short]}.")
    if short in ("attn.hook_q", "attn.hook_k") and model is not None and _is_rotary(model):
        letter = short[-1]
        raise SiteError(
            f"{name} of TransformerLens is before the rotary embedding; layers.{layer}.attn.{letter} is after it.\n"
            f"  that one is blocks.{layer}.attn.hook_rot_{letter} there."
        )
    return f"layers.{layer}.{_TL[short]}" if short in _TL else name


def _is_rotary(model: Any) -> bool:
    config = model.config
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    return any(getattr(config, n, None) not in (None, 0) for n in _ROTARY)


def _neuronpedia(name: str, source: str, model: Any) -> str:
    short = next((site for pattern, site in _SETS if re.fullmatch(pattern, source)), "")
    if short is None:
        return "resid_pre" if model is not None and model.family.name == "gpt2" else "resid_post"
    if not short:
        raise SiteError(
            f"{name!r} looks like a source of Neuronpedia, and {source!r} does not tell its place in the layer.\n"
            "  its page names the hook (blocks.6.hook_resid_pre, say): give that name."
        )
    return short


def _after_layers(name: str, after: int, model: Any) -> str:
    """The stream after so many layers: vLLM's layer ids, and Hugging Face's hidden states."""
    count = sum(1 for p in model.points if re.fullmatch(r"layers\.\d+\.resid_post", p)) if model is not None else None
    if name.startswith("hidden"):
        if after < 0 and count is None:
            raise SiteError(f"{name} counts from the end, which takes a model to know.")
        after = after if after >= 0 or count is None else count + 1 + after
        if after == count and model is not None and "final_norm" in model.points:
            return "final_norm"  # the last entry is taken after the norm
    if after < 0 or (count is not None and after > count):
        raise SiteError(f"{name} does not exist: this model has {count} layers.")
    return f"layers.{after - 1}.resid_post" if after else "layers.0.resid_pre"


def _by_module(path: str, model: Any) -> str:
    """A Hugging Face module path is the site whose value is that module's output, whole and as it leaves it."""
    found = [
        point.name
        for point in model.points.values()
        if point.kind == "module"
        and point.side == "out"
        and not (point.index or point.part or point.span or point.scale or point.rules)
        and f".{point.path}".endswith(f".{path}")
    ]
    return found[0] if len(found) == 1 else path


def aliases(name: str) -> dict[str, str]:
    """What other tools call this site, by tool: transformer_lens, sparsify, neuronpedia, vllm, gguf, hidden_states.

    Only names that mean the same tensor on every model; hidden_states is named as what a layer starts from, since its
    last entry is after the final norm.
    """
    found: dict[str, str] = {}
    for theirs, ours in _TL_ROOT.items():
        if ours == name:
            found["transformer_lens"] = theirs
    if (m := re.fullmatch(r"layers\.(\d+)\.(.+)", name)) is None:
        return found
    layer, short = int(m[1]), m[2]
    theirs = next((t for t, o in _TL.items() if o == short), None)
    if theirs:
        found["transformer_lens"] = f"blocks.{layer}.{theirs}"
    if short in _SHORT:
        found["neuronpedia"] = f"{layer}-{_SHORT[short]}"
    if short == "resid_post":
        found |= {"sparsify": f"layers.{layer}", "vllm": f"vllm:{layer + 1}"}
        found |= {"gguf": f"direction.{layer}"} if layer else {}
    if short == "resid_pre":
        found |= {"vllm": f"vllm:{layer}", "hidden_states": f"hidden_states[{layer}]"}
    return found
