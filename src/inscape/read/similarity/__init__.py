"""Are two sites, layers or models the same inside? Measures of two representations of the same items, with their nulls.

| you want | take |
|---|---|
| one number for two layers, blind to rotation and scale | `cka` |
| all pairs of layers, from a store of any length, in one read | `cka_matrix` |
| a number that is honest with few items | `cka` as it is (debiased); never the plain one of fewer items than units |
| curved relations, or less weight on large distances | `cka(kernel="rbf")` |
| do both call the same items far apart, with your own conditions, folds or distances | `similarity(x, y, RSA(...))` |
| is one the other turned and scaled; a metric | `similarity(x, y, Procrustes())` |
| small directions to count like large ones | `similarity(x, y, CCA("svcca"))` |
| who is next to whom, whatever is far away | `similarity(x, y, MutualKNN())` |
| what of layer j follows from layer i, on held-out rows | `map_layers` |
| any of them for all pairs | `similarity_matrix(sites, measure=...)` |

Rows are items: the same ones in the same order on both sides, drawn independently. Every number comes with what it is
when items are paired at random (`control="shuffle"`); a comparison with untrained weights is another question, and is
asked by giving an untrained model's rows. Stores, traces and tensors are taken alike.
"""

from inscape.read.similarity.cka import cka, cka_matrix
from inscape.read.similarity.maps import LayerMaps, map_layers
from inscape.read.similarity.measures import Measure, similarity, similarity_matrix
from inscape.read.similarity.neighbours import MutualKNN
from inscape.read.similarity.result import Similarity, SimilarityMatrix
from inscape.read.similarity.rsa import RSA, dissimilarities
from inscape.read.similarity.subspaces import CCA, Procrustes

__all__ = [
    "CCA",
    "RSA",
    "LayerMaps",
    "Measure",
    "MutualKNN",
    "Procrustes",
    "Similarity",
    "SimilarityMatrix",
    "cka",
    "cka_matrix",
    "dissimilarities",
    "map_layers",
    "similarity",
    "similarity_matrix",
]
