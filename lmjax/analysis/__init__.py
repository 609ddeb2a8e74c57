"""Looks at runs: pictures of rows and curves, reports, laws, and what is wrong with a loss."""

from lmjax.curves.loss_curve import LossCurve, analyze_loss_curve
from lmjax.curves.power_law import PowerLawFit, fit_power_law
from lmjax.curves.scaling import IsoFlop, ScalingFit, fit_isoflop, fit_scaling_law

__all__ = [
    "IsoFlop",
    "LossCurve",
    "PowerLawFit",
    "ScalingFit",
    "analyze_loss_curve",
    "fit_isoflop",
    "fit_power_law",
    "fit_scaling_law",
]
