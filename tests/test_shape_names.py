"""The legend of axes is true: every letter of a name is explained, and no name states other axes than its value has."""

import jax
import jax.numpy as jnp
import pytest
import shape_names
from shape_names import ROOT, axes, global_legend, local_legend, used_letters, watched

MODULES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


@pytest.mark.parametrize("module", MODULES)
def test_every_letter_is_explained(module):
    source = (ROOT / module).read_text()
    unknown = {
        letter: name
        for letter, name in used_letters(source).items()
        if letter not in global_legend() | local_legend(source)
    }
    assert not unknown, f"{module}: add a paragraph `Axes: X what it counts, ...` to the module's docstring"


@pytest.mark.parametrize("module", MODULES)
def test_a_local_letter_is_used(module):
    source = (ROOT / module).read_text()
    assert local_legend(source) <= set(used_letters(source))


def test_names_and_their_axes():
    assert axes("hidden_BTD") == "BTD"
    assert axes("index_11S") == "11S"
    assert axes("tokens_B2S") == "B2S"
    assert axes("_table_VW") == "VW"
    for name in ("hidden", "IGNORE_INDEX", "T5", "UL2_DENOISERS", "Batch", "layer_2", "_BTD"):
        assert axes(name) is None
    assert {"B", "T", "D", "V"} <= global_legend()
    assert local_legend('"""Sums.\n\nAxes: J choices of a token, Q blocks of\nqueries.\n\nX rows.\n"""') == {"J", "Q"}
    assert used_letters("def f(a_BT): return a_BT[0].sum_D") == {"B": "a_BT", "T": "a_BT", "D": "sum_D"}


def test_a_wrong_name_is_seen(tmp_path):
    path = tmp_path / "module.py"
    path.write_text("def double(x_BT):\n    y_B = 2 * x_BT\n    return y_B\n")
    names: dict = {}
    exec(compile(path.read_text(), str(path), "exec"), names)
    with watched(tmp_path) as wrong:
        jax.eval_shape(names["double"], jnp.zeros((2, 3)))
    assert wrong == {"module.py:double: y_B has 2 axes: (2, 3)"}
    with watched(tmp_path / "elsewhere") as wrong:
        jax.eval_shape(names["double"], jnp.zeros((2, 3)))
    assert not wrong
    assert shape_names.ROOT.name == "lmjax"
