"""When to end a training job early: functions of its history, for `fit(stop=...)`."""

from collections.abc import Callable

from inscape.core.errors import InputError
from inscape.train.history import History


def no_better(name: str, patience: int = 3, *, best: str = "max") -> Callable[[History], bool]:
    """True once a measured number has not become better for `patience` measurements in a row: early stopping.

    The weights stay those of the last step, `patience` measurements after the best: measure often, on items that are
    neither trained on nor reported. NaN is no better than anything.
    name: of a meter, with its part ("held.accuracy"). best: "max" where more is better, "min" where less is.
    Raises: InputError for a patience below 1 or another `best`; when asked, for a number that is not measured.
    """
    if patience < 1 or best not in ("max", "min"):
        raise InputError(f"no_better(patience={patience}, best={best!r}): a patience of 1 or more; 'max' or 'min'.")

    def stop(history: History) -> bool:
        if name not in history.measured:
            there = ", ".join(map(repr, history.measured)) or "none; give fit meters="
            raise InputError(
                f"no_better asks for {name!r}, which is not measured.\n  the numbers measured are {there}."
            )
        values = [value if best == "max" else -value for _, value in history.measured[name]]
        at, record = -1, float("-inf")
        for i, value in enumerate(values):
            if value > record:
                at, record = i, value
        return len(values) - 1 - at >= patience

    return stop
