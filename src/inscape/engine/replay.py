"""Reading a recurrent state: no module of the model receives or returns it, so a session replays it beside the model.

1. Where the mixer is called, its mask and copies of the cached states are kept (a step writes over them).
2. Its own modules show what the recurrence is made of, with the edits that reach it.
3. Where the output projection is called all of that has been seen: the states are computed and read.
"""

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from inscape.core.errors import ModelError
from inscape.engine.recurrences import RECURRENCES, Recurrence, Seen, shown_by
from inscape.models.points import Point

if TYPE_CHECKING:
    from inscape.engine.session import Session

CACHES = ("cache_params", "past_key_values", "state")  # as mixers call what they are given


def watch(session: "Session", point: Point) -> None:
    """Put the hooks that see what the states at this point are made of."""
    mixer, kind = point.after[0].module, RECURRENCES[point.inside]

    def begin(module: nn.Module, args: Any, kwargs: Any) -> None:
        if session.mine():
            session.replays[point.name] = _begun(point, kind, module, kwargs)

    session._put(mixer._forward_pre_hooks, begin, mixer._forward_pre_hooks_with_kwargs)
    for tap, (module, is_input) in shown_by(mixer, kind.shows).items():

        def see(module: nn.Module, args: Any, out: Any = None, tap: str = tap) -> None:
            seen = session.replays.get(point.name) if session.mine() else None
            if seen is not None:
                x = args if out is None else out
                seen.shown[tap] = x if isinstance(x, Tensor) else x[0]

        if is_input:  # the mixer goes on with what it had, whatever an edit hands to this module (ssm.conv)
            session._put(module._forward_pre_hooks, see, first=True)
        else:  # an edit of what the recurrence returned (ssm.scan) does not go back into its state
            session._put(module._forward_hooks, see, first=point.inside == "rg_lru")


def states(session: "Session", point: Point) -> Tensor:
    """The state after every token of this call.

    Cost: a loop over the tokens, and the states of one layer twice in memory before `reduce` is applied.
    """
    return RECURRENCES[point.inside].states(session.replays.pop(point.name))


def _begun(point: Point, kind: Recurrence, mixer: nn.Module, kwargs: dict[str, Any]) -> Seen:
    seen = Seen(mixer, {}, kwargs.get("attention_mask"))
    cache = next((kwargs[name] for name in CACHES if kwargs.get(name) is not None), None)
    if cache is None:
        return seen
    try:
        start = kind.kept(mixer, cache)
        conv = cache.get_conv_state(mixer.layer_idx) if kind.convolves else None
    except AttributeError:
        raise ModelError(
            f"{point.name}: this model was given a {type(cache).__name__}, which does not tell its recurrent states.\n"
            "  read it without a cache (ins.run), or use a transformers with Cache.get_recurrent_state (5.23 has it)."
        ) from None
    seen.start = start.clone() if start is not None else None
    seen.conv = conv.clone() if conv is not None else None
    return seen
