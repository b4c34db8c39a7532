"""The one training loop of the package: `fit`, its learning-rate schedules and the losses that many things share."""

from inscape.train.answers import answer_batches
from inscape.train.frozen import frozen
from inscape.train.history import History
from inscape.train.loop import fit
from inscape.train.losses import next_token
from inscape.train.schedule import constant, cosine, linear
from inscape.train.stopping import no_better

__all__ = ["History", "answer_batches", "constant", "cosine", "fit", "frozen", "linear", "next_token", "no_better"]
