"""The supervisor: who is restarted, who is stopped, and that nobody is left."""

import os
import re
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

PROGRAM = """
import os, signal, sys, threading
from greenroom.cli.supervisor import Command, Supervisor
from greenroom.logs import configure_logs

# Ours may be ignored (nohup), which a child inherits.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
configure_logs("INFO", as_json=False)

def command(name, code, **options):
    return Command(name, [sys.executable, "-c", code], dict(os.environ), **options)

# Not print: a signal handler may interrupt it, and it cannot be entered twice.
HELLO = '''import os, signal, sys, time
say = lambda *words: os.write(1, (" ".join(map(str, words)) + chr(10)).encode())
'''
PATIENT = HELLO + '''
def stop(*_):
    say(NAME, "told to stop")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, lambda *_: say(NAME, "saw SIGINT"))
say(NAME, "pid", os.getpid())
while True: signal.pause()
'''
DEAF = HELLO + '''
signal.signal(signal.SIGTERM, lambda *_: say(NAME, "ignores the stop"))
say(NAME, "pid", os.getpid())
while True: signal.pause()
'''

def named(name, code, **options):
    return command(name, f"NAME = {name!r}\\n" + code, **options)
"""


@pytest.fixture
def supervise(start_program, tmp_path: Path) -> Callable:
    """Start a program that supervises; its last lines are the test's."""

    def start(lines: str):
        script = tmp_path / "supervise.py"
        script.write_text(PROGRAM + lines)
        return start_program(script)

    return start


def pid_in(line: str) -> int:
    """The process id at the end of a `... pid N` line."""
    return int(re.search(r"pid (\d+)", line).group(1))


def test_a_dead_child_is_started_again(supervise):
    """A child that dies comes back as a new process, and the log names it and its exit code."""
    program = supervise("""sys.exit(Supervisor([named("a", PATIENT)], 5).run())""")
    first = pid_in(program.line_with("a pid"))
    os.kill(first, signal.SIGKILL)

    died = program.line_with("child died")
    second = pid_in(program.line_with("a pid"))

    assert "child=a" in died
    assert "exit_code=-9" in died
    assert second != first


def test_a_child_that_dies_at_once_is_started_less_and_less_often(supervise):
    """Each pause between starts is longer than the one before."""
    lines = """sys.exit(Supervisor([named("a", HELLO + "say('at', time.monotonic())")], 5).run())"""
    program = supervise(lines)
    starts = [float(program.line_with("at ").split()[1]) for _ in range(4)]
    pauses = [later - earlier for earlier, later in pairwise(starts)]

    assert pauses[0] >= 0.4
    assert pauses[1] > pauses[0] * 1.5
    assert pauses[2] > pauses[1] * 1.5


def test_ex_config_stops_everything(supervise, has_gone):
    """A child that cannot be configured is not retried: all stop, and the exit code is 1."""
    program = supervise("""
sys.exit(Supervisor([named("good", PATIENT), named("bad", HELLO + "sys.exit(78)")], 5).run())
""")
    assert program.wait() == 1
    for pid in re.findall(r"good pid (\d+)", program.output):
        assert has_gone(int(pid))
    assert program.output.count("cannot be configured") == 1


def test_a_held_child_waits_for_a_restart(supervise):
    """With reload, a broken child ends nothing; the next change starts it again."""
    program = supervise("""
supervisor = Supervisor([named("a", HELLO + "say('a pid', os.getpid()); sys.exit(78)")], 5)
supervisor.holds_misconfigured = True
def listen():
    for line in sys.stdin:
        supervisor.restart("a")
threading.Thread(target=listen, daemon=True).start()
sys.exit(supervisor.run())
""")
    first = pid_in(program.line_with("a pid"))
    program.line_with("waiting for a change")
    program.process.stdin.write("\n")
    program.process.stdin.flush()

    assert pid_in(program.line_with("a pid")) != first
    program.signal(signal.SIGTERM)
    assert program.wait() == 0


def test_restart_replaces_a_running_child_gracefully(supervise):
    """A restart tells the old process to stop, then starts a new one, without counting a death."""
    program = supervise("""
supervisor = Supervisor([named("a", PATIENT)], 5)
def listen():
    for line in sys.stdin:
        supervisor.restart("a")
threading.Thread(target=listen, daemon=True).start()
sys.exit(supervisor.run())
""")
    first = pid_in(program.line_with("a pid"))
    program.process.stdin.write("\n")
    program.process.stdin.flush()

    program.line_with("a told to stop")
    assert pid_in(program.line_with("a pid")) != first
    assert "child died" not in program.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stop_keeps_what_others_need_to_the_end(supervise, has_gone, number):
    """`graphs` is told to stop only after `web` has gone; the exit code is 0, nobody is left."""
    program = supervise("""
needed = named("graphs", PATIENT, stops_after=("web",))
sys.exit(Supervisor([needed, named("web", PATIENT)], 5).run())
""")
    pids = [pid_in(program.line_with(" pid ")) for _ in range(2)]
    program.signal(number)

    assert program.wait() == 0
    assert re.findall(r"(\w+) told to stop", program.output) == ["web", "graphs"]
    assert all(has_gone(pid) for pid in pids)


def test_ctrl_c_reaches_children_once(supervise):
    """A terminal's SIGINT goes to our whole group; children hear of the stop from us alone."""
    program = supervise("""sys.exit(Supervisor([named("a", PATIENT)], 5).run())""")
    program.line_with("a pid")
    os.killpg(program.pid, signal.SIGINT)

    assert program.wait() == 0
    assert program.output.count("a told to stop") == 1
    assert "saw SIGINT" not in program.output


def test_a_deaf_child_is_killed_after_the_grace(supervise, has_gone):
    """A child that ignores SIGTERM gets SIGKILL when its grace is over."""
    program = supervise("""sys.exit(Supervisor([named("a", DEAF)], 0.5).run())""")
    pid = pid_in(program.line_with("a pid"))
    program.signal(signal.SIGTERM)
    program.line_with("killing")

    assert program.wait() == 0
    assert has_gone(pid)


def test_a_second_ctrl_c_kills_at_once(supervise, has_gone):
    """Who presses Ctrl-C again does not wait for the grace."""
    program = supervise("""sys.exit(Supervisor([named("a", DEAF)], 3600).run())""")
    pid = pid_in(program.line_with("a pid"))
    program.signal(signal.SIGINT)
    program.line_with("ignores the stop")
    # The first of these may still count as an echo of the Ctrl-C above.
    while not has_gone_within(program, 0.1):
        program.signal(signal.SIGINT)

    assert has_gone(pid)


def has_gone_within(program, seconds: float) -> bool:
    """Wait a moment for the program's end."""
    with suppress(subprocess.TimeoutExpired):
        program.process.wait(seconds)
    return program.process.returncode is not None


def test_a_killed_parent_leaves_nobody(supervise, has_gone):
    """SIGKILL gives us no chance to act, and yet every child goes: politely, or by SIGKILL."""
    program = supervise("""
import signal
deaf = named("deaf", DEAF, death_signal=signal.SIGKILL)
sys.exit(Supervisor([named("a", PATIENT), deaf], 5).run())
""")
    pids = [pid_in(program.line_with(" pid ")) for _ in range(2)]
    program.signal(signal.SIGKILL)

    assert all(has_gone(pid) for pid in pids)
    program.line_with("a told to stop")


def test_what_a_dead_child_had_started_goes_too(supervise, has_gone):
    """A child's own children do not outlive it: they would hold its port or its files."""
    program = supervise("""
code = HELLO + '''
import subprocess
sleeper = subprocess.Popen(["sleep", "3600"])
say("sleeper pid", sleeper.pid)
os._exit(1)
'''
sys.exit(Supervisor([named("a", code)], 5).run())
""")
    assert has_gone(pid_in(program.line_with("sleeper pid")))


FORKED = """

def forked(name, code):
    def call():
        exec(f"NAME = {name!r}\\n" + code, {})
    return Command(name, (), {**os.environ, "MARK": name}, call=call)
"""


def test_a_forked_child_is_one_like_any_other(supervise, has_gone):
    """It has its own environment and handlers, is started again, and is stopped with the rest."""
    mark = "say(NAME, 'mark', os.environ['MARK'])\n"
    lines = f"sys.exit(Supervisor([forked('a', HELLO + {mark!r} + PATIENT)], 5).run())"
    program = supervise(FORKED + lines)
    assert program.line_with("a mark").split()[-1] == "a"
    first = pid_in(program.line_with("a pid"))
    os.kill(first, signal.SIGKILL)
    assert "exit_code=-9" in program.line_with("child died")
    second = pid_in(program.line_with("a pid"))
    program.process.send_signal(signal.SIGTERM)
    program.line_with("a told to stop")
    assert program.process.wait(10) == 0
    assert has_gone(first)
    assert has_gone(second)


def test_a_forked_child_goes_with_a_killed_parent(supervise, has_gone):
    """Its death signal is set like that of a program."""
    program = supervise(FORKED + "sys.exit(Supervisor([forked('a', PATIENT)], 5).run())")
    child = pid_in(program.line_with("a pid"))
    program.process.kill()
    program.line_with("a told to stop")
    assert has_gone(child)


@pytest.mark.parametrize(
    ("code", "expected"),
    [("sys.exit(os.EX_CONFIG)", 78), ("raise ValueError('no')", 1), ("sys.exit()", 0)],
)
def test_the_end_of_a_forked_child_is_told(supervise, code, expected):
    """However its call ends, that is the exit code, and nothing of the parent's runs in it."""
    lines = f"""
from greenroom.cli.processes import fork
child = fork(forked("a", HELLO + {code!r}).call, "a", death_signal=signal.SIGKILL,
             environment=dict(os.environ))
os.write(1, f"ended with {{child.wait()}}\\n".encode())
"""
    program = supervise(FORKED + lines)
    assert program.line_with("ended with").split()[-1] == str(expected)


def test_nobody_is_forked_beside_threads(supervise):
    """What a thread holds would stay held in the child for ever."""
    lines = """
from greenroom.cli.processes import fork
threading.Thread(target=threading.Event().wait, daemon=True).start()
try:
    fork(lambda: None, "a", death_signal=signal.SIGKILL, environment={})
except RuntimeError as error:
    os.write(1, f"refused: {error}\\n".encode())
"""
    program = supervise(FORKED + lines)
    assert "one thread" in program.line_with("refused")
