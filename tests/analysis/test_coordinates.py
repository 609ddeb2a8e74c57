"""The coordinate check: with muP the changes do not depend on the width, without it they grow."""

import dataclasses

import numpy as np
import pytest
import tiny
import tiny_run

from lmjax.analysis.coordinates import Coordinates, at_width, check_coordinates, plot_coordinates, table


@pytest.mark.long
def test_widths_that_follow_mup_change_alike_and_others_do_not(tmp_path, one_device):
    tiny_run.write_corpus(tmp_path / "text")
    base = tiny_run.config(tmp_path, objective_name="CausalLM")
    exponents = {}
    for width_base in (16, None):
        model = dataclasses.replace(base.model, width_base=width_base, num_layers=1, dropout=0.0)
        config = dataclasses.replace(base, model=model)
        found = check_coordinates(config, (128, 16), steps=2)
        exponents[width_base] = found.exponents
        assert found.widths == (16, 128) and found.places == ("embeddings", "layer 1", "logits")
        assert found.sizes_WP.shape == found.changes_WP.shape == (2, 3) and (found.changes_WP > 0).all()
    assert abs(exponents[16][-1]) < 0.4 < 0.6 < exponents[None][-1], exponents


def test_exponents_by_hand(tmp_path):
    changes = np.array([[1.0, 2.0], [1.0, 4.0], [1.0, 8.0]])
    found = Coordinates((10, 20, 40), ("layer 1", "logits"), changes, changes, 3)
    assert np.allclose(found.exponents, [0, 1]) and "the change of logits grows with the width" in found.verdict
    flat = dataclasses.replace(found, changes_WP=np.ones((3, 2)))
    assert "hardly depend" in flat.verdict
    columns = [[str(column.header), *column.cells] for column in table(found).columns]
    assert columns[0] == ["mean change after 3 steps", "layer 1", "logits"]
    assert columns[3:] == [["width 40", "1", "8"], ["grows as width^", "+0.00", "+1.00"]]
    pytest.importorskip("matplotlib")
    assert plot_coordinates(found, tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_impossible_widths_are_refused(tmp_path):
    wide = at_width(tiny.MODEL, 64)
    assert (wide.width, wide.num_heads, wide.feedforward_width, wide.key_width) == (64, 8, 128, tiny.MODEL.key_width)
    with pytest.raises(ValueError, match="num_heads=2 of width 16 would be 2.5 at width 20: choose multiples of 8"):
        at_width(tiny.MODEL, 20)
    with pytest.raises(ValueError, match="not latent attention, experts, recurrent"):
        at_width(dataclasses.replace(tiny.MODEL, encoder_layers=1), 32)
    for widths in ((16,), (0, 16)):
        with pytest.raises(ValueError, match="at least two different widths"):
            check_coordinates(tiny_run.config(tmp_path), widths)
    with pytest.raises(ValueError, match="steps=0"):
        check_coordinates(tiny_run.config(tmp_path), (16, 32), steps=0)
