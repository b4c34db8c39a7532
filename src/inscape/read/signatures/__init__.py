"""Output signatures: what can be told from a model's probabilities alone, without looking inside.

| you have | take |
|---|---|
| a model and texts (was it trained on them?) | `capture(model, texts)` |
| a model and prompts (will its answers be wrong?) | `capture(model, prompts, span="generated", max_new_tokens=40)` |
| log probabilities from an API | `from_logprobs(items, n_vocab)` |
| signatures and labels | `cross_validated(readout, x, y, groups)`: each of `signature_baselines(x)`, then `LOSNet()` |
| scores and labels | `detect(scores, labels, groups)` |
"""

from inscape.read.signatures.baselines import SignatureBaseline, signature_baselines
from inscape.read.signatures.capturing import capture, signature_site
from inscape.read.signatures.detection import Detection, cross_validated, detect
from inscape.read.signatures.file import load_signatures, save_signatures
from inscape.read.signatures.from_api import from_logprobs
from inscape.read.signatures.heuristics import HEURISTICS
from inscape.read.signatures.losnet import LOSNet
from inscape.read.signatures.signature import Signatures, together

__all__ = [
    "HEURISTICS",
    "Detection",
    "LOSNet",
    "SignatureBaseline",
    "Signatures",
    "capture",
    "cross_validated",
    "detect",
    "from_logprobs",
    "load_signatures",
    "save_signatures",
    "signature_baselines",
    "signature_site",
    "together",
]
