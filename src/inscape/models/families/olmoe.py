"""OLMoE: routed experts in every layer, queries and keys normalised over all heads together."""

from inscape.models.families.mixtral import MIXTRAL_STACK
from inscape.models.families.parts import MOE_NOTES
from inscape.models.family import Family

OLMOE = Family(name="olmoe", model_types=("olmoe",), stacks=(MIXTRAL_STACK,), notes=MOE_NOTES)
