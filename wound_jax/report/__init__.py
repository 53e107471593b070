"""The page of a run or of a comparison: one HTML file to open anywhere, and its tables as CSV.

files of the runs -> `load` -> sections of tables and figures -> template
"""

from wound_jax.report.page import write_html, write_run_html

__all__ = ["write_html", "write_run_html"]
