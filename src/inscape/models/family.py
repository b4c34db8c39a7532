"""A family of models is a table: where, inside each repeated block, every named activation lives.

A *tap* says where one activation is, as a short string relative to the block:

    "mlp"                       the output of module `mlp` (its first tensor, when it returns a tuple)
    "mlp:in"                    the first tensor it receives, by position or by keyword
    "mlp.experts:in@2"          the third tensor it receives
    "mlp.gate@0"                the first tensor of the tuple it returns
    "mlp.gate_up_proj[0/2]"     the first of two equal parts along the last axis
    "mixer.x_proj[time_step_rank:-state_size]"   a slice of the last axis; bounds are numbers or config names
    "self_attn * residual_multiplier"   what it returns, times a number from the configuration
    "temporal_block if temporal_block.q_proj"    only in blocks that have this other module too
    ""  and  ":in"              the block itself

A tuple of taps means: the first one whose module this block has (hybrid stacks mix block kinds).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_TAP = re.compile(
    r"^(?P<path>[\w.]*)(?P<side>:in)?(?:@(?P<index>\d+))?"
    r"(?:\[(?:(?P<part>\d+)/(?P<parts>\d+)|(?P<start>(?:-?\w+)?):(?P<stop>(?:-?\w+)?))\])?"
    r"(?:\s*\*\s*(?P<scale>\w+))?(?:\s+if\s+(?P<needs>[\w.]+))?$"
)

Taps = str | tuple[str, ...]


@dataclass(frozen=True)
class Tap:
    """Where one activation lives, relative to a block: see the module's docstring for the written form.

    span: bounds of a slice of the last axis, each empty, a whole number or the name of a number in the configuration,
        with a minus to count from the end. needs: another module that the block must have for this tap to be meant.
    """

    path: str
    side: str = "out"
    index: int | None = None
    part: tuple[int, int] | None = None
    scale: str | None = None
    span: tuple[str, str] | None = None
    needs: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Tap":
        found = _TAP.match(text)
        if found is None:
            raise ValueError(
                f"{text!r} is no tap; write 'path', 'path:in', 'path@1', 'path[0/2]' or 'path * config_name'"
            )
        part = (int(found["part"]), int(found["parts"])) if found["parts"] else None
        index = int(found["index"]) if found["index"] else None
        span = (found["start"], found["stop"]) if found["start"] is not None else None
        return cls(found["path"], "in" if found["side"] else "out", index, part, found["scale"], span, found["needs"])


@dataclass(frozen=True)
class Stack:
    """One list of repeated blocks and the taps of every block.

    blocks: path of the `ModuleList` from the model's root, as in the class with a head ("model.layers");
        the bare model and wrapped models are found by dropping or adding leading names.
    sites: canonical name -> tap(s) within a block ("resid_post": "", "mlp.act": "mlp.down_proj:in").
    attention, cross: the module(s) that call transformers' attention interface: offers q, k, v, scores, pattern.
    recurrence: the kind of recurrence in the mixer (a key of `engine.recurrences.RECURRENCES`): offers ssm.state.
    attention_calls: the module(s) that compute attention with torch's own functions instead, seen in their calls;
        attention_names: which of q, k, v, scores, pattern they then offer.
    experts: the module that holds stacked experts behind transformers' experts interface.
    adds: how the parts enter the stream. "sequential": each after the other, with a middle; "parallel": side by side;
        "post_norm": the stream is normalised after every addition, by `norms` in order; "other": not a plain sum.
    prefix: "encoder.", "decoder.", "vision.", "text." or nothing.
    embed, final_norm: taps from the root (so ":in" and alternatives work).
    config: attribute of the model's config that describes this stack ("vision_config"); empty for the config itself.
    heads, kv_heads: names of the config's head counts, first one found.
    inner: for nested lists ("stages.{i}.blocks.{j}"), whose stages are `blocks`: the list inside each stage.
    """

    blocks: str
    sites: Mapping[str, Taps]
    attention: Taps | None = None
    cross: Taps | None = None
    attention_calls: Taps | None = None
    attention_names: tuple[str, ...] = ("q", "k", "v", "scores", "pattern")
    experts: Taps | None = None
    recurrence: str = ""
    adds: str = "sequential"
    norms: tuple[str, ...] = ()
    prefix: str = ""
    embed: Taps | None = None
    final_norm: Taps | None = None
    config: str = ""
    heads: tuple[str, ...] = ("num_attention_heads", "n_head", "num_heads", "n_heads", "encoder_attention_heads")
    kv_heads: tuple[str, ...] = ("num_key_value_heads", "num_kv_heads")
    inner: str | None = None


@dataclass(frozen=True)
class Family:
    """All that inscape knows of one family of models, as data.

    model_types: the `model_type`s of the Hugging Face configs that this table fits.
    classes: full names ("package.module.Class") of modules that have no such config.
    when: numbers or switches of the config that must hold too, where one `model_type` has two layouts.
    logits: tap from the root for the scores the model returns ("lm_head"), None when it has no head.
    logits_after: names of config numbers applied after the head, in order: "softcap:final_logit_softcapping",
        "times:logit_scale", "divide:logits_scaling".
    positions: "given" when padded batches need `position_ids` made from the mask, "own" when the model makes
        them itself, "none" when it has no notion of them.
    left_padding: False where padding before the text enters a recurrent state and changes what follows.
    notes: said by `inscape sites`: what is not offered, and why.
    """

    name: str
    model_types: tuple[str, ...]
    stacks: tuple[Stack, ...]
    logits: Taps | None = "lm_head"
    logits_after: tuple[str, ...] = ()
    positions: str = "given"
    left_padding: bool = True
    notes: Mapping[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    when: Mapping[str, object] = field(default_factory=dict)
