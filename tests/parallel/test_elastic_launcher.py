"""``launch/local.py --restarts``: which processes take part in the next start after a fault."""

import importlib.util
import pathlib
import signal
import subprocess
import sys

import pytest

from lmjax.parallel.distributed import DistributedConfig, tell_launcher

pytestmark = pytest.mark.processes

ROOT = pathlib.Path(__file__).parents[2]
LAUNCHER = ROOT / "launch" / "local.py"
specification = importlib.util.spec_from_file_location("local_launcher", LAUNCHER)
launcher = importlib.util.module_from_spec(specification)
sys.modules["local_launcher"] = launcher
specification.loader.exec_module(launcher)

PROGRAM = """
import json, os, pathlib, sys, time
place, rank, count = (int(os.environ["LMJAX_" + name]) for name in ("PLACE", "PROCESS_ID", "NUM_PROCESSES"))
signs, here = pathlib.Path(os.environ["LMJAX_SIGNS"]), pathlib.Path.cwd()
def sign(name):
    (signs / f"{{name}}.{{rank}}").touch()
def wait_for_all(name):
    while len(list(signs.glob(f"{{name}}.*"))) < count:
        time.sleep(0.01)
(here / f"start.{{signs.name}}").touch()
start = len(list(here.glob("start.*")))
(here / f"{{start}}.{{place}}").write_text(f"{{rank}} of {{count}}")
{body}
"""
"""A process that knows which start of the launcher this is."""
JOIN = "sign('came'); wait_for_all('came'); sign('joined'); wait_for_all('joined')"


def launched(folder: pathlib.Path, body: str, *options: str) -> tuple[int, list[dict[int, str]], str]:
    """The exit code, who took part in each start, by place, and what was said."""
    command = [sys.executable, str(LAUNCHER), "--grace", "1", *options, "--", sys.executable, "-S", "-c"]
    done = subprocess.run(
        [*command, PROGRAM.format(body=body)], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    starts: dict[int, dict[int, str]] = {}
    for path in folder.glob("[0-9]*.[0-9]*"):
        number, place = path.name.split(".")
        starts.setdefault(int(number), {})[int(place)] = path.read_text()
    return done.returncode, [starts[number] for number in sorted(starts)], done.stdout


def test_a_process_that_is_gone_is_left_out_and_taken_back_at_the_next_restart(tmp_path):
    body = f"""
if (start, place) == (2, 0):
    sys.exit(1)
{JOIN}
if start == 1 and place == 0:
    os.kill(os.getpid(), 9)
sys.exit({{3: 1, 4: 0}}.get(start) if start > 1 else time.sleep(20))
"""
    code, starts, said = launched(tmp_path, body, "--processes", "2", "--min-processes", "1", "--restarts", "3")
    assert code == 0, said
    assert starts == [
        {0: "0 of 2", 1: "1 of 2"}, {0: "0 of 2", 1: "1 of 2"}, {1: "0 of 1"}, {0: "0 of 2", 1: "1 of 2"}
    ]  # fmt: skip
    assert [line for line in said.splitlines() if line.startswith("launcher:")] == [
        "launcher: a fault: starting 2 of 2 processes (restart 1 of 3)",
        "launcher: could not start: process 0: starting 1 of 2 processes (restart 2 of 3)",
        "launcher: a fault: starting 2 of 2 processes (restart 3 of 3)",
    ]


@pytest.mark.parametrize(("fewest", "code", "sizes"), [("1", 0, [4, 3, 2]), ("3", 2, [4, 3])])
def test_a_group_whose_size_is_refused_is_made_smaller_or_ends(tmp_path, fewest, code, sizes):
    body = f"""
if place == 1:
    sys.exit(1)
{JOIN}
sys.exit(0 if 8 % count == 0 else 2)
"""
    options = ("--processes", "4", "--min-processes", fewest, "--restarts", "9")
    found, starts, said = launched(tmp_path, body, *options)
    assert (found, [len(start) for start in starts]) == (code, sizes), said
    assert set(starts[1]) == {0, 2, 3} and "launcher: 3 processes were refused, the reason is above" in said
    assert code == 0 or "--min-processes 3: giving up after 1 of 9 restarts" in said


def test_with_too_few_all_are_tried_again_until_the_restarts_are_used_up(tmp_path):
    code, starts, said = launched(tmp_path, "sys.exit(3)", "--processes", "2", "--restarts", "1")
    assert code == 3 and len(starts) == 2 and all(len(start) == 2 for start in starts)
    assert "--min-processes 2: giving up after 1 of 1 restarts" in said


def test_who_is_told_to_stop_is_not_started_again(tmp_path):
    body = "import signal; signal.signal(signal.SIGTERM, lambda *_: sys.exit(1)); print('ready'); time.sleep(30)"
    command = [
        sys.executable,
        str(LAUNCHER),
        "--restarts",
        "5",
        "--",
        sys.executable,
        "-S",
        "-c",
        PROGRAM.format(body=body),
    ]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert [process.stdout.readline()[3:] for _ in range(2)] == [" ready\n"] * 2
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 1 and "launcher:" not in process.stderr.read()


@pytest.mark.parametrize(
    ("codes", "came", "joined", "left_out"),
    [
        ([-9, 1], {0, 1}, {0, 1}, set()),  # It had come up.
        ([None, 1], {0}, set(), {1}),
        ([None, 1, None, 127], {0, 2}, set(), {1, 3}),
        ([None, 1, None], {0}, set(), {1}),  # Process 2 is only slow.
        ([1, None], {0}, set(), {1}),  # Process 1 hangs, and process 0 has waited in vain.
        ([None, 1], {0, 1}, set(), {1}),  # It came, and did not find its devices.
        ([1, 1], {0, 1}, set(), {0}),
    ],
)
def test_who_keeps_a_start_from_coming_up_is_left_out(codes, came, joined, left_out):
    assert launcher.to_leave_out(codes, came, joined) == left_out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--min-processes", "3"], "--min-processes must be from 1 to --processes (2)"),
        (["--min-processes", "1"], "--min-processes needs --restarts"),
        (["--restarts", "-1"], "--restarts must be at least 0"),
    ],
)
def test_options_that_do_not_go_together_are_refused(words, message, capsys):
    with pytest.raises(SystemExit):
        launcher.parse_arguments([*words, "--", "true"])
    assert message in capsys.readouterr().err


def test_a_process_leaves_signs_for_the_launcher_that_asks_for_them(tmp_path):
    second = DistributedConfig(process_id=1)
    tell_launcher("came", second, {"LMJAX_SIGNS": str(tmp_path)})
    tell_launcher("came", second, {})
    tell_launcher("joined", second, {"LMJAX_SIGNS": str(tmp_path / "gone")})
    assert launcher.Group([0, 1], tmp_path).having("came") == {1} and not launcher.Group([0], tmp_path).having("joined")
