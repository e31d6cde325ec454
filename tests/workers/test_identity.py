"""A worker's id tells its neighbours on the machine whether it still lives."""

import os
import subprocess
import sys

from deployment import until

from greenroom_workers.identity import is_dead, make_worker_id

TELL = "from greenroom_workers.identity import make_worker_id; print(make_worker_id(), flush=True)"


def test_a_living_worker_is_not_dead() -> None:
    """Ours, and that of a child that waits."""
    assert not is_dead(make_worker_id())


def test_an_ended_worker_is_dead_also_before_anybody_has_reaped_it() -> None:
    """A zombie holds its id, but will never renew a lease."""
    with subprocess.Popen(
        [sys.executable, "-c", f"{TELL}; input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        worker_id = child.stdout.readline().strip()
        assert not is_dead(worker_id)
        child.kill()
        until(lambda: is_dead(worker_id))
    assert is_dead(worker_id)


def test_an_id_that_was_given_out_again_is_another_worker() -> None:
    """Process ids return; the time of the start does not."""
    host, pid, rest = make_worker_id().split(":")
    kernel, start, random = rest.split("-")
    assert int(pid) == os.getpid()
    assert is_dead(f"{host}:{pid}:{kernel}-{int(start) - 1}-{random}")


def test_of_other_machines_nobody_here_knows() -> None:
    """Nor of holders that are no workers."""
    host, _, rest = make_worker_id().split(":")
    elsewhere = "00000000" + rest[8:]
    assert not is_dead(f"{host}:{2**22 + 1}:{elsewhere}")
    assert not is_dead("state update")
    assert not is_dead("")
    assert not is_dead("host:12:-")
