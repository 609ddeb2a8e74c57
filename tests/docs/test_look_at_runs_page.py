"""The page on looking at runs: its functions work on a run's metrics."""

import json
import pathlib
import re

import numpy as np

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "how-to" / "look-at-runs.md"


def test_the_functions_of_the_page(tmp_path):
    names: dict = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)), names)
    losses = [2 + 6 * step**-0.5 for step in range(1, 301)]
    losses[200] *= 2
    lines = [json.dumps({"step": step, "train/loss": loss}) for step, loss in enumerate(losses, start=1)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    warnings, exponent, forecasts, steps = names["look"](tmp_path)
    assert len(warnings) == 1 and "a spike at step 201" in warnings[0]
    assert abs(exponent.value - 0.5) < 0.02 and abs(forecasts[2].value - 2 - 6 * 600**-0.5) < 0.01
    assert abs(steps.value - 144) < 3
    rows = [(budget, 1e6 * 2.0**k, 2 + 0.1 * k**2) for budget in (1e18, 1e19) for k in (-1, 0, 1)]
    sizes, growth = names["best_sizes"](*zip(*rows, strict=True))
    assert np.allclose(list(sizes.values()), 1e6) and abs(growth) < 1e-6
