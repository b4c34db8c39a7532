"""What attention heads do, from their weights: factors, components, composition, token maps, reversible edits."""

from inscape.circuits.weights.composition import Composition, composition, shuffled
from inscape.circuits.weights.edit import component_edit, weight_component
from inscape.circuits.weights.factored import Components, Factored
from inscape.circuits.weights.head import HeadWeights, head, heads
from inscape.circuits.weights.relations import Relation, RelationScores, relation_score
from inscape.circuits.weights.token_map import TokenMap, token_map, token_scores

__all__ = [
    "Components",
    "Composition",
    "Factored",
    "HeadWeights",
    "Relation",
    "RelationScores",
    "TokenMap",
    "component_edit",
    "composition",
    "head",
    "heads",
    "relation_score",
    "shuffled",
    "token_map",
    "token_scores",
    "weight_component",
]
