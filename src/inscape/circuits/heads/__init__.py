"""Which heads are of which known kind: what they look at, what they write, what they do to an answer."""

from inscape.circuits.heads.atlas import KINDS, HeadAtlas, Kind, head_atlas
from inscape.circuits.heads.attention import HeadScores, head_scores
from inscape.circuits.heads.measured import Measured
from inscape.circuits.heads.probes import Probes

__all__ = ["KINDS", "HeadAtlas", "HeadScores", "Kind", "Measured", "Probes", "head_atlas", "head_scores"]
