"""Where act(gate) is met, for rules that choose neurons by their gate rather than by the product they enter."""

from inscape.core.errors import ModelError
from inscape.models.model import Model
from inscape.read.sparsity.profile import neurons_of


def gate_sites(model: Model, sites: object = None) -> dict[str, str]:
    """The output of the activation function of every layer's MLP, as a site: {"layers.0.mlp.act": "@...act_fn"}.

    In a gated MLP the neurons are act(gate) * up, and a neuron whose act(gate) is set to 0 is 0; in a plain one the
    two sites are the same. Edits (`topk_activation`, `threshold_activation`) work at both.
    Raises: ModelError where the activation function is no module of its own beside the down projection.
    """
    found, modules = {}, dict(model.module.named_modules())
    for site in neurons_of(model, sites):
        parent = model.points[site].path.split(":")[0].split("@")[0].rpartition(".")[0]
        children = modules[parent].named_children() if parent in modules else ()
        names = [n for n, m in children if "act" in n and not list(m.parameters()) and not list(m.children())]
        if len(names) != 1:
            raise ModelError(
                f"{site}: beside {model.points[site].path} there are {len(names)} activation modules, not one, so what "
                "the gate gives has no site.\n  choose by the product instead: edits at mlp.act."
            )
        found[site] = f"@{parent}.{names[0]}"
    return found
