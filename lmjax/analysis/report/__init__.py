"""One HTML page about one or more runs, in a single file that asks for nothing from a network."""

from lmjax.analysis.report.page import write_report

__all__ = ["write_report"]
