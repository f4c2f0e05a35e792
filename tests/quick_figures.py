"""Imported by conftest.py and warm_imports.py: figures are drawn without being laid out.

That takes as long as to draw them, and no test looks at where the parts of a figure are.
"""

from matplotlib.layout_engine import ConstrainedLayoutEngine

ConstrainedLayoutEngine.execute = lambda engine, figure: None  # type: ignore[method-assign]
