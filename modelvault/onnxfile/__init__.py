"""ONNX files: take a model apart into a small graph and one region of weights. The only importer of ``onnx``.

The graph keeps its meaning and every weight its bits. Large weights of the main graph become external data in the
file ``weights``, which exists only in the loader's memory; everything else that was external is taken into the graph.
"""

from modelvault.onnxfile.layout import ALIGNMENT, Edit, IOEntry, SourceFile, SplitModel
from modelvault.onnxfile.split import parse, split
from modelvault.onnxfile.weights import OpenModel, Weight

__all__ = [
    "ALIGNMENT",
    "Edit",
    "IOEntry",
    "OpenModel",
    "SourceFile",
    "SplitModel",
    "Weight",
    "parse",
    "split",
]
