"""What attention heads do, from their weights: factors, components, composition, token maps, reversible edits."""

from inscape.circuits.weights.composition import Composition, composition
from inscape.circuits.weights.edit import component_edit, weight_component
from inscape.circuits.weights.factored import Components, Factored
from inscape.circuits.weights.head import HeadWeights, head, heads

__all__ = [
    "Components",
    "Composition",
    "Factored",
    "HeadWeights",
    "component_edit",
    "composition",
    "head",
    "heads",
    "weight_component",
]
