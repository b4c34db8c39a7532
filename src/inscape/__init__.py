"""inscape: read, change, learn from and spend less on the inside of neural networks."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {  # public name -> module; imported when first used, so that `import inscape` costs nothing
    "open": "models.open",
    "Model": "models.model",
    "Family": "models.family",
    "Stack": "models.family",
    "run": "engine.forward",
    "generate": "engine.generate",
    "Generation": "engine.generate",
    "editing": "engine.editing",
    "verify": "engine.verify",
    "Site": "core.site",
    "SiteTable": "core.site",
    "Trace": "core.trace",
    "Edit": "core.edit",
    "Direction": "core.direction",
    "Directions": "core.directions",
    "fit_directions": "steer.fit_directions",
    "calibrate_strength": "steer.calibrate",
    "dose_response": "steer.dose_response",
    "add": "core.edits.add",
    "schedule": "core.edits.strength",
    "norm_preserving_add": "core.edits.norm_preserving",
    "affine": "core.edits.affine",
    "when": "core.edits.when",
    "Condition": "core.edits.when",
    **dict.fromkeys(("mask_experts", "force_experts", "boost_experts", "scale_experts"), "core.edits.experts"),
    "project_out": "core.edits.directions",
    "clamp": "core.edits.directions",
    "scale": "core.edits.values",
    "replace": "core.edits.values",
    "edit": "core.edits.values",
    "patch": "core.edits.sources",
    "ablate": "core.edits.sources",
    "skip": "core.edits.skip",
    "skip_layers": "core.edits.skip",
    "skip_voids": "core.edits.voids",
    "attend": "core.edits.attend",
    "save_edits": "core.edit_file",
    "load_edits": "core.edit_file",
    "merge_edits": "steer.merge",
    "span": "core.positions",
    "tokens": "core.positions",
    "newest": "core.positions",
    "sweep": "circuits.sweep",
    "Grid": "core.grid",
    "Metric": "core.metrics",
    **dict.fromkeys(("logit_diff", "probability", "log_prob", "rank", "accuracy", "kl", "loss"), "core.metrics"),
    "record": "store.record",
    "Store": "store.store",
    "top_k": "store.keep",
    "project": "store.keep",
    "import_store": "store.exchange.importing",
    "save_readout": "core.readout_file",
    "load_readout": "read.readouts",
    "report": "reports.report",
    "steering_report": "reports.steering",
    "plan": "reports.plan",
    **dict.fromkeys(
        (
            "InscapeError", "SiteError", "ShapeError", "EditError", "NotFiredError", "NotFiniteError", "TokenError",
            "InputError", "ModelError", "FileError", "PaperError", "NotFittedError", "NotConvergedError",
            "MissingExtraError",
        ),
        "core.errors",
    ),
}  # fmt: skip

__all__ = [*_WHERE, "__version__"]

if TYPE_CHECKING:
    from inscape.circuits.sweep import sweep
    from inscape.core.direction import Direction
    from inscape.core.directions import Directions
    from inscape.core.edit import Edit
    from inscape.core.edit_file import load_edits, save_edits
    from inscape.core.edits.add import add
    from inscape.core.edits.affine import affine
    from inscape.core.edits.attend import attend
    from inscape.core.edits.directions import clamp, project_out
    from inscape.core.edits.experts import boost_experts, force_experts, mask_experts, scale_experts
    from inscape.core.edits.norm_preserving import norm_preserving_add
    from inscape.core.edits.skip import skip, skip_layers
    from inscape.core.edits.sources import ablate, patch
    from inscape.core.edits.strength import schedule
    from inscape.core.edits.values import edit, replace, scale
    from inscape.core.edits.voids import skip_voids
    from inscape.core.edits.when import Condition, when
    from inscape.core.errors import (
        EditError,
        FileError,
        InputError,
        InscapeError,
        MissingExtraError,
        ModelError,
        NotConvergedError,
        NotFiniteError,
        NotFiredError,
        NotFittedError,
        PaperError,
        ShapeError,
        SiteError,
        TokenError,
    )
    from inscape.core.grid import Grid
    from inscape.core.metrics import Metric, accuracy, kl, log_prob, logit_diff, loss, probability, rank
    from inscape.core.positions import newest, span, tokens
    from inscape.core.readout_file import save_readout
    from inscape.core.site import Site, SiteTable
    from inscape.core.trace import Trace
    from inscape.engine.editing import editing
    from inscape.engine.forward import run
    from inscape.engine.generate import Generation, generate
    from inscape.engine.verify import verify
    from inscape.models.family import Family, Stack
    from inscape.models.model import Model
    from inscape.models.open import open
    from inscape.read.readouts import load_readout
    from inscape.reports.plan import plan
    from inscape.reports.report import report
    from inscape.reports.steering import steering_report
    from inscape.steer.calibrate import calibrate_strength
    from inscape.steer.dose_response import dose_response
    from inscape.steer.fit_directions import fit_directions
    from inscape.steer.merge import merge_edits
    from inscape.store.exchange.importing import import_store
    from inscape.store.keep import project, top_k
    from inscape.store.record import record
    from inscape.store.store import Store


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'inscape' has no attribute {name!r}")
    value = getattr(import_module(f"inscape.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
