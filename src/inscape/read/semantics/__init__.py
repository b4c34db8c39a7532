"""A wrong answer explained: which concepts stand at its position, which carry it, when it is decided, by which words.

| you want to know | take |
|---|---|
| all of it for one prompt | `trace_semantics(model, prompt, contrast_prompt)` |
| what each concept does for an answer, for many prompts | `support_matrix(model, prompts, concepts, targets)` |
| is the answer carried by what the context is about | `coherence(support, plus, minus)`, then `binned_errors` |
| from which layer on it is decided | `commitment_layer(model, prompts, wrong, right, how="causal", corrected=...)` |
| which words it hangs on | `spurious_spans(model, prompt)` |
| attention or MLPs | `circuits.direct.direct_logits(...).routes` |
"""

from inscape.read.semantics.coherence import BinnedErrors, binned_errors, coherence
from inscape.read.semantics.commitment import Commitment, commitment_layer, transplanted
from inscape.read.semantics.concepts import Concepts, concepts_of, reading_directions
from inscape.read.semantics.spans import SpanEffect, spurious_spans
from inscape.read.semantics.support import Support, support_matrix
from inscape.read.semantics.trace import SemanticTrace, trace_semantics

__all__ = [
    "BinnedErrors",
    "Commitment",
    "Concepts",
    "SemanticTrace",
    "SpanEffect",
    "Support",
    "binned_errors",
    "coherence",
    "commitment_layer",
    "concepts_of",
    "reading_directions",
    "spurious_spans",
    "support_matrix",
    "trace_semantics",
    "transplanted",
]
