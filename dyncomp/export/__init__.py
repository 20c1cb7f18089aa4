"""Networks as files for other engines: torch.export, ONNX, OpenVINO; the dense form, or the routed one.

Needs the extra `export` for all formats but torch.export.
"""

from dyncomp.export.graph import Graph, graph_of
from dyncomp.export.run import Exported, load_exported
from dyncomp.export.write import export_network, free_path

__all__ = ["Exported", "Graph", "export_network", "free_path", "graph_of", "load_exported"]
