"""Options of the compiler: a user's own win."""

from lmjax.parallel.compiler_options import OPTIONS, VARIABLE, compiler_options


def test_options_are_for_their_platform_and_a_users_own_win():
    assert compiler_options("tpu", {}) == OPTIONS["tpu"]
    assert compiler_options("cpu", {}) == {}
    own = {"LIBTPU_INIT_ARGS": "--xla_other=1 --xla_enable_async_all_reduce=false"}
    assert list(OPTIONS["tpu"].keys() - compiler_options("tpu", own).keys()) == ["xla_enable_async_all_reduce"]
    assert compiler_options("tpu", {VARIABLE: "off"}) == {}
