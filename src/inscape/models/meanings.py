"""What each name means and which axes it has: one line a site, the same words for every model."""

STREAM = "batch pos d_model"
HEADS = "batch pos head d_head"
MAP = "batch head query key"

# name within a layer, "attn." standing for "cross." too -> (axes, meaning)
LAYER: dict[str, tuple[str, str]] = {
    "resid_pre": (STREAM, "the residual stream as the layer receives it"),
    "attn.in": (STREAM, "what the attention block reads, after its norm"),
    "attn.q": (HEADS, "queries as the scores use them, after q-norm and rotary"),
    "attn.k": ("batch pos kv_head d_head", "keys as the scores use them, after k-norm and rotary"),
    "attn.v": ("batch pos kv_head d_head", "values"),
    "attn.q_latent": ("batch pos d_latent", "compressed queries, after their norm"),
    "attn.kv_latent": ("batch pos d_latent", "compressed keys and values, after their norm"),
    "attn.scores": (MAP, "attention scores before the softmax, scaled, -inf where masked"),
    "attn.pattern": (MAP, "attention weights after the softmax"),
    "attn.z": (HEADS, "what each head brings, before the output projection"),
    "attn.head_out": ("batch pos head d_model", "what each head adds to the stream, without the bias"),
    "attn_out": (STREAM, "what attention adds to the stream, after any post-norm"),
    "cross_out": (STREAM, "what cross-attention adds to the stream"),
    "ssm.in": (STREAM, "what the state-space mixer reads, after its norm"),
    "ssm.gate": ("batch pos d_inner", "gate of the state-space mixer, before its activation"),
    "ssm.conv": ("batch pos d_conv", "after the short convolution"),
    "ssm.dt": ("batch pos d_dt", "step sizes"),
    "ssm.B": ("batch pos d_state", "input maps of the state"),
    "ssm.C": ("batch pos d_state", "output maps of the state"),
    "ssm.k": ("batch pos d_inner", "keys of the time mixing"),
    "ssm.v": ("batch pos d_inner", "values of the time mixing"),
    "ssm.state": ("batch pos d_inner d_state", "recurrent state after each token, in float32, to read"),
    "ssm.scan": ("batch pos d_inner", "what the recurrence gives, before gate and norm"),
    "ssm.y": ("batch pos d_inner", "what the output projection of the mixer reads"),
    "ssm_out": (STREAM, "what the state-space mixer adds to the stream"),
    "resid_mid": (STREAM, "the residual stream between attention and MLP"),
    "mlp.in": (STREAM, "what the MLP reads, after its norm"),
    "router.logits": ("batch pos expert", "router scores for every expert"),
    "router.experts": ("batch pos choice", "indices of the chosen experts"),
    "router.weights": ("batch pos choice", "weights of the chosen experts"),
    "mlp.pre": ("batch pos d_mlp", "what the activation function reads"),
    "mlp.act": ("batch pos d_mlp", "the neurons: what the down projection reads"),
    "shared.pre": ("batch pos d_shared", "shared expert: what the activation function reads"),
    "shared.act": ("batch pos d_shared", "shared expert: what its down projection reads"),
    "shared.gate": ("batch pos one", "gate of the shared expert, before its sigmoid"),
    "shared.out": (STREAM, "output of the shared part, before it is weighed"),
    "mlp_out": (STREAM, "what the MLP adds to the stream, after any post-norm"),
    "resid_post": (STREAM, "the residual stream as the layer leaves it"),
    "out": ("batch channel height width", "what the block returns"),
}
ORDER = {name: i for i, name in enumerate(LAYER)}

ROOT: dict[str, tuple[str, str]] = {
    "embed": (STREAM, "output of the embedding module"),
    "final_norm": (STREAM, "the stream after the last norm: what the head reads"),
    "logits": ("batch pos vocab", "scores of the next token (or of the classes)"),
}
# kind of recurrence -> axes of its state
STATES: dict[str, str] = {
    "mamba": "batch pos d_inner d_state",
    "mamba2": "batch pos head d_head d_state",
    "delta": "batch pos head d_k d_v",
    "rg_lru": "batch pos d_inner",
    "wkv": "batch pos d_inner part",
}
ATTENTION = ("q", "k", "v", "scores", "pattern")


def of(name: str) -> tuple[str, str]:
    """(axes, meaning) of a name within a layer; unknown names are streams of whatever width."""
    if name.startswith("cross."):
        axes, meaning = LAYER["attn." + name.removeprefix("cross.")]
        return axes, f"cross-attention: {meaning}"
    if name.startswith("experts."):
        return STREAM, "output of one expert, unweighted; zero at tokens it did not get"
    return LAYER.get(name, ("batch pos d", name.replace(".", " ")))


def order(name: str) -> float:
    """Where a name stands within its layer."""
    if name.startswith("cross"):
        return ORDER["resid_mid"] - 0.5 + ORDER.get("attn." + name.removeprefix("cross."), 90) / 1000
    if name.startswith("experts."):
        return ORDER["mlp.pre"] - 0.5
    return float(ORDER.get(name, ORDER["mlp_out"] - 0.5))
