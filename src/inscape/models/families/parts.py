"""Site tables that several decoders share, as data; a family's own file joins them with `|` and adds what differs."""

from collections.abc import Mapping

from inscape.models.family import Taps

STREAM: Mapping[str, Taps] = {"resid_pre": ":in", "resid_post": ""}

ATTENTION: Mapping[str, Taps] = {
    "attn.in": "self_attn:in",
    "attn.z": "self_attn.o_proj:in",
    "attn_out": "self_attn",
}

# gate, up and down projections; the activation function reads the gate
GATED_MLP: Mapping[str, Taps] = {
    "mlp.in": "mlp:in",
    "mlp.pre": "mlp.gate_proj",
    "mlp.act": "mlp.down_proj:in",
    "mlp_out": "mlp",
}

# Llama's layout: h + attention(norm(h)), then h + mlp(norm(h))
PRE_NORM: Mapping[str, Taps] = {**STREAM, **ATTENTION, "resid_mid": "post_attention_layernorm:in", **GATED_MLP}

# Gemma's layout: a norm before and one after each branch; what enters the stream is the output of the second
SANDWICH_NORM: Mapping[str, Taps] = {
    **PRE_NORM,
    "attn_out": "post_attention_layernorm",
    "resid_mid": "pre_feedforward_layernorm:in",
    "mlp_out": "post_feedforward_layernorm",
}

# A router `mlp.gate` beside stacked experts. The experts are called with the indices and weights that are used, so
# these can be edited there; where its logits are edited, the router is asked again (`engine/routing.py`).
ROUTER: Mapping[str, Taps] = {
    "router.logits": "mlp.gate@0",
    "router.experts": "mlp.experts:in@1",
    "router.weights": "mlp.experts:in@2",
}

# One shared expert that every token passes, with a gate of its own (Qwen)
SHARED_EXPERT: Mapping[str, Taps] = {
    "shared.pre": "mlp.shared_expert.gate_proj",
    "shared.act": "mlp.shared_expert.down_proj:in",
    "shared.out": "mlp.shared_expert",
    "shared.gate": "mlp.shared_expert_gate",
}

# Mamba's first mixer, under the name `mixer`: gate, convolution, low-rank step, B and C are seen at its projections
MAMBA: Mapping[str, Taps] = {
    "ssm.in": "mixer:in",
    "ssm.gate": "mixer.in_proj[1/2]",
    "ssm.conv": "mixer.x_proj:in",
    "ssm.dt": "mixer.x_proj[:time_step_rank]",
    "ssm.B": "mixer.x_proj[time_step_rank:-state_size]",
    "ssm.C": "mixer.x_proj[-state_size:]",
    "ssm.y": "mixer.out_proj:in",
    "ssm_out": "mixer",
}

MOE_NOTES: Mapping[str, str] = {
    "router.logits": "an edit acts before the choice: the router's own rule chooses and weighs anew",
    "mlp.pre": "only in dense layers: routed experts are stacked weights; read experts.{e}.out",
    "mlp.act": "only in dense layers: routed experts are stacked weights; read experts.{e}.out",
}
SHARED_NOTES: Mapping[str, str] = {
    "shared.gate": "before its sigmoid",
    "shared.out": "before it is multiplied with the sigmoid of shared.gate",
}
OWN_ATTENTION = "this family computes attention itself, past transformers' attention interface"
