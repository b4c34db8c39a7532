"""The errors a user can meet: each says what was wrong, what is there and what to do."""


class InscapeError(Exception):
    """Any error inscape raises on purpose."""


class SiteError(InscapeError, KeyError):
    """A site name that this model does not have, or does not have in this shape."""

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0]) if self.args else ""


class ShapeError(InscapeError, ValueError):
    """A tensor whose axes do not fit the site it is meant for."""


class EditError(InscapeError, ValueError):
    """An edit that cannot be made, saved or applied."""


class NotFiredError(InscapeError, RuntimeError):
    """A read or an edit that was asked for and never happened in the run."""


class NotFiniteError(InscapeError, ArithmeticError):
    """An edit, a loss or a gradient is NaN or infinity."""


class NotConvergedError(InscapeError, ArithmeticError):
    """A numerical method that ended further from its answer than was accepted."""


class TokenError(InscapeError, ValueError):
    """A text that is not one token, a span that is not in the prompt, a position that is not there."""


class InputError(InscapeError, TypeError):
    """Inputs this model cannot take: an image for a text model, no tokenizer for a string."""


class ModelError(InscapeError, ValueError):
    """A model that cannot be opened or cannot do what was asked: meta weights, no generate, compiled."""


class FileError(InscapeError, OSError):
    """A file that is missing, damaged, of another version or not what it says it is."""


class PaperError(InscapeError, LookupError):
    """A paper that is not here, or a recipe whose claims and numbers do not fit together."""


class NotFittedError(InscapeError, RuntimeError):
    """A readout was asked to transform, predict or score before it was fitted."""


class MissingExtraError(InscapeError, ImportError):
    """An optional dependency is not installed; the message names the extra."""
