"""Looks at runs: pictures of rows and curves, reports, laws, and what is wrong with a loss."""

from lmjax.curves.loss_curve import LossCurve, analyze_loss_curve
from lmjax.curves.power_law import PowerLawFit, fit_power_law

__all__ = ["LossCurve", "PowerLawFit", "analyze_loss_curve", "fit_power_law"]
