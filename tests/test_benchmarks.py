"""The benchmarks run, at sizes that tell nothing about speed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SHARED = "throughput,state"
ALONE = "slots"


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two rounds of Greenroom and the floor have written down."""
    out = tmp_path_factory.mktemp("benchmarks") / "samples.jsonl"
    argv = [sys.executable, "-m", "benchmarks", "--quick", "--rounds", "2", "--out", out]
    argv += ["--servers", "greenroom,floor", "--scenarios", f"{ALONE},{SHARED},backlog"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "| throughput | background runs | runs/s |" in done.stdout
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def test_every_scenario_has_figures_and_no_errors(samples: list[dict[str, Any]]) -> None:
    """Of each server that it means something for."""
    assert {sample["scenario"] for sample in samples} == {
        ALONE,
        *SHARED.split(","),
        "backlog",
    }
    assert not [sample["error_samples"] for sample in samples if sample["errors"]]
    assert all(sample["figures"] for sample in samples)
    by_floor = {sample["scenario"] for sample in samples if sample["server"] == "floor"}
    assert by_floor == {*SHARED.split(","), ALONE}


def test_servers_take_turns_in_each_scenario(samples: list[dict[str, Any]]) -> None:
    """And another one begins in each round."""
    turns = [
        (sample["round"], sample["scenario"], sample["server"])
        for sample in samples
        if sample["scenario"] in SHARED.split(",")
    ]
    assert turns == [
        (number, name, server)
        for number, servers in enumerate((("greenroom", "floor"), ("floor", "greenroom")))
        for name in SHARED.split(",")
        for server in servers
    ]
