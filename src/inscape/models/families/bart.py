"""BART: an encoder-decoder whose stream is normalised after every addition; the MLP is two layers of the block."""

from inscape.models.family import Family, Stack

ENCODER = {
    "resid_pre": ":in",
    "attn.in": "self_attn:in",
    "attn.z": "self_attn.out_proj:in",
    "attn_out": "self_attn",
    "resid_mid": "self_attn_layer_norm",
    "mlp.in": "fc1:in",
    "mlp.pre": "fc1",
    "mlp.act": "fc2:in",
    "mlp_out": "fc2",
    "resid_post": "",
}

BART = Family(
    name="bart",
    model_types=("bart",),
    stacks=(
        Stack(
            blocks="model.encoder.layers",
            sites=ENCODER,
            attention="self_attn",
            adds="post_norm",
            norms=("self_attn_layer_norm", "final_layer_norm"),
            prefix="encoder.",
            embed="model.encoder.embed_tokens",
        ),
        Stack(
            blocks="model.decoder.layers",
            sites={
                **ENCODER,
                "cross.in": "encoder_attn:in",
                "cross.z": "encoder_attn.out_proj:in",
                "cross_out": "encoder_attn",
                "resid_mid": "encoder_attn_layer_norm",
            },
            attention="self_attn",
            cross="encoder_attn",
            adds="post_norm",
            norms=("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
            prefix="decoder.",
            embed="model.decoder.embed_tokens",
            heads=("num_heads", "decoder_attention_heads"),
        ),
    ),
    logits=("lm_head", "classification_head", "qa_outputs"),
    positions="own",
    notes={
        "embed": "token vectors alone (scaled where the config says so); positions and a norm follow",
        "final_norm": "none: every block ends in its own norm",
        "logits": "before final_logits_bias is added, which published models leave at zero",
        "decoder.layers.*.resid_mid": "after cross-attention; never met in a decoder that runs without an encoder",
    },
)
