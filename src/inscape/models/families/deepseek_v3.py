"""DeepSeek V2 and V3: keys and values from a shared latent; dense layers first, then routed and shared experts."""

from dataclasses import replace

from inscape.models.families.llama import LLAMA_STACK
from inscape.models.families.parts import MOE_NOTES, PRE_NORM, ROUTER
from inscape.models.family import Family

DEEPSEEK_V3 = Family(
    name="deepseek_v3",
    model_types=("deepseek_v3", "deepseek_v2"),
    stacks=(
        replace(
            LLAMA_STACK,
            sites={
                **PRE_NORM,
                **ROUTER,
                "attn.q_latent": "self_attn.q_a_layernorm",
                "attn.kv_latent": "self_attn.kv_a_layernorm",
                "shared.pre": "mlp.shared_experts.gate_proj",
                "shared.act": "mlp.shared_experts.down_proj:in",
                "shared.out": "mlp.shared_experts",
            },
            experts="mlp.experts",
        ),
    ),
    notes={
        **MOE_NOTES,
        "attn.k": "expanded from attn.kv_latent: one a query head, whatever num_key_value_heads says",
        "attn.q_latent": "only where q_lora_rank is set",
        "attn.z": "width v_head_dim, which differs from that of queries and keys",
        "shared.out": "added to the routed experts' sum as it is",
    },
)
