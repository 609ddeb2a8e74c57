"""The page on evaluations: its code makes evaluations that a recipe takes and config.json keeps."""

import pathlib
import re
import sys

import numpy as np

from lmjax.train.config import RunConfig
from lmjax.train.config_file import from_json, to_json

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "how-to" / "evaluations.md"


def test_the_evaluations_of_the_page_can_be_used(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "page_evaluations.py").write_text("\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)))
    import page_evaluations as page

    try:
        largest = page.LargestWeight(name="largest", every_steps=10)
        config = RunConfig(name="x", evaluations=(*page.evaluations, largest), checkpoint=page.checkpoint)
        assert from_json(RunConfig, to_json(config)) == config
        assert [one.is_due(500) for one in config.evaluations] == [True, False, True, True, True]
        parts = []
        params = {"a": np.array([1.0, -3.0]), "b": np.array([[2.0]])}
        reading = largest.begin(None)(params, lambda: parts.append(1))
        assert reading.numbers == {"weight": 3.0} and len(parts) == 2
    finally:
        sys.modules.pop("page_evaluations", None)
