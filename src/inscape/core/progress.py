"""How a long job says where it is: a function of a message and a fraction, given by the caller."""

from collections.abc import Callable

Progress = Callable[[str, float | None], object] | None


def tell(progress: Progress, message: str, fraction: float | None = None) -> None:
    """Report to `progress` when there is one; fraction in [0, 1], None when it is not known."""
    if progress is not None:
        progress(message, fraction)
