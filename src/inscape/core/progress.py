"""How a long job says where it is: a function of a message and a fraction, given by the caller."""

from collections.abc import Callable

Progress = Callable[[str, float | None], object] | None


def tell(progress: Progress, message: str, fraction: float | None = None) -> None:
    """Report to `progress` when there is one; fraction in [0, 1], None when it is not known."""
    if progress is not None:
        progress(message, fraction)


def part(progress: Progress, low: float, high: float) -> Progress:
    """Progress of one step that is so much of the whole; an unknown fraction stays at its beginning."""

    def inner(message: str, fraction: float | None = None) -> None:
        tell(progress, message, low + (high - low) * (fraction or 0.0))

    return inner
