"""Short names for exactly these weights and exactly this tokenizer, so that no result is used on another model.

A fingerprint is the first 16 hex digits of a SHA-256. It is the same in every process, on every device and after
saving and loading; it changes with the class, the parts of the configuration that change numbers, and the names,
shapes, dtypes and a sample of the values of the weights. Only 16 values a tensor are read, so that it costs
milliseconds: an edit to a few single numbers can go unseen, training and anything that touches whole matrices cannot.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

SAMPLES = 16  # values of each tensor that are looked at

# What changes a model's numbers without changing a weight. A list of what counts and not of what does not: new
# versions of transformers add settings to old configurations, and those must not change the name of a model.
_ESSENTIAL = (
    *("is_causal", "tie_word_embeddings", "layer_types", "sliding_window", "num_experts_per_tok"),
    *("hidden_act", "hidden_activation", "activation_function"),
    *("layer_norm_eps", "rms_norm_eps", "layer_norm_epsilon", "norm_eps"),
    *("num_attention_heads", "num_key_value_heads", "n_head", "num_heads", "head_dim", "rope_parameters"),
    *("query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping", "attention_multiplier"),
    *("embedding_multiplier", "residual_multiplier", "logits_scaling", "logit_scale"),
)

_PROBE = "The 3 cats sat; naïve Σ 猫 — don't\n\tprint('x')  <b> 😀"


def fingerprint(module: nn.Module) -> str:
    """The fingerprint of a module's weights; weights on the meta device count by name and shape alone.

    Cost: 16 values of each tensor, gathered on the device: about 10 ms for a small language model.
    """
    about = f"{type(module).__name__}\n{json.dumps(essentials(getattr(module, 'config', None)))}\n"
    return digest_of(_stored(module), about)


def digest_of(tensors: Iterable[tuple[str, Tensor]], about: str = "") -> str:
    """The fingerprint of some named tensors, in the order given."""
    digest = hashlib.sha256(about.encode())
    for name, tensor in tensors:
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(_sample(tensor))
    return digest.hexdigest()[:16]


def essentials(config: Any) -> dict[str, Any]:
    """The settings of a configuration that change a model's numbers, its sub-configurations' included."""
    values = config if isinstance(config, Mapping) else getattr(config, "__dict__", {})
    kept = {key: _plain(values[key]) for key in _ESSENTIAL if values.get(key) is not None}
    inner = {k: essentials(v) for k, v in values.items() if str(k).endswith("_config") and hasattr(v, "to_dict")}
    return dict(sorted((kept | inner).items()))


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """The fingerprint of what a tokenizer does: its size, special tokens, a sample of its vocabulary, and a probe text.

    Padding side and chat template do not count: they change no token's meaning. Empty without a tokenizer.
    Cost: milliseconds.
    """
    if tokenizer is None:
        return ""
    said: dict[str, Any] = {}
    try:
        said["size"] = size = len(tokenizer)
        some = sorted({i * (size - 1) // 255 for i in range(256)})
        said["tokens"] = [str(tokenizer.convert_ids_to_tokens(i)) for i in some]
    except (TypeError, AttributeError, IndexError, KeyError):
        said["class"] = type(tokenizer).__qualname__
    for kind in ("bos", "eos", "pad", "unk", "mask", "cls", "sep"):
        said[kind] = getattr(tokenizer, f"{kind}_token_id", None)
    if hasattr(tokenizer, "encode"):
        ids = tokenizer.encode(_PROBE)
        said["probe"] = [int(i) for i in getattr(ids, "ids", ids)]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def _stored(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and the buffers that a checkpoint holds, by name; shared ones once."""
    found: dict[str, Tensor] = dict(module.named_parameters())
    for prefix, inner in module.named_modules():
        for name, buffer in inner.named_buffers(recurse=False):
            if name not in inner._non_persistent_buffers_set:
                found[f"{prefix}.{name}" if prefix else name] = buffer
    yield from sorted(found.items())


def _sample(tensor: Tensor) -> bytes:
    n = tensor.numel()
    if tensor.device.type == "meta" or n == 0:
        return b""
    with torch.no_grad():
        tensor = tensor.detach()
        if tensor.element_size() == 1:  # bytes of any kind, packed and 8-bit float types included
            tensor = tensor.view(torch.uint8)
        at = torch.tensor(sorted({i * (n - 1) // (SAMPLES - 1) for i in range(SAMPLES)}), device=tensor.device)
        values = tensor[torch.unravel_index(at, tensor.shape)] if tensor.dim() else tensor.reshape(1)
        return values.contiguous().view(torch.uint8).cpu().numpy().tobytes()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in sorted(value.items(), key=lambda item: str(item[0]))}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value if isinstance(value, (bool, int, float, str)) or value is None else str(value)
