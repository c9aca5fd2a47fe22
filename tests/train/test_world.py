"""Who is who, what ranks tell each other, and how one ends when another is gone: with real processes over gloo."""

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sailctl.core.errors import DataError, SailctlError, TrainingError, UsageError
from sailctl.core.train import world as module
from sailctl.core.train.world import Seat, World, find_seat, first_host
from tests.helpers_train import PRELOADED, TORCHRUN, free_port

SLURM = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_STEP_NODELIST": "gpu[07-08]"}


def test_a_lone_process_has_no_seat() -> None:
    assert find_seat({}) is None
    # sbatch sets these for its script too, which is one process; srun alone adds the number of its tasks
    assert find_seat({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "7"}) is None


def test_torchrun_and_the_deepspeed_launcher_are_recognised() -> None:
    launched = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "gpu01", "MASTER_PORT": "29500"}
    assert find_seat(launched) == Seat(5, 8, 1)
    assert find_seat(launched | SLURM) == Seat(5, 8, 1)  # torchrun under srun


def test_slurm_is_recognised_and_the_first_host_is_where_to_meet() -> None:
    assert find_seat(SLURM | {"SLURM_JOB_ID": "123456"}) == Seat(3, 8, 1, ("gpu07", 23456))
    assert find_seat(SLURM | {"MASTER_ADDR": "head", "MASTER_PORT": "7"}) == Seat(3, 8, 1, ("head", 7))


@pytest.mark.parametrize(
    ("nodelist", "host"),
    [("gpu1", "gpu1"), ("a1,b2", "a1"), ("gpu[007-010,12]", "gpu007"), ("n[3,5]-ib,x", "n3-ib"), ("c[1-2]d", "c1d")],
)
def test_first_host(nodelist: str, host: str) -> None:
    assert first_host(nodelist) == host


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "x", "WORLD_SIZE": "2"}, r"RANK=x in the environment is no rank"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, r"WORLD_SIZE is set, MASTER_ADDR or MASTER_PORT is not"),
        ({"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, r"rank 2 of 2 processes"),
        (SLURM | {"SLURM_STEP_NODELIST": ","}, "names no host; set MASTER_ADDR"),
    ],
)
def test_an_environment_that_makes_no_sense_is_one_line(environment: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_seat(environment)


def test_alone_everything_is_a_plain_call() -> None:
    with World.join("cpu") as world:
        assert (world.size, world.is_first, world.gather({"a": 1})) == (1, True, [{"a": 1}])
        assert world.first(lambda: 3) == world.first_then_all(lambda: 3) == 3
        with pytest.raises(ZeroDivisionError):
            world.together(lambda: 1 / 0)
        assert world.speaks("x") and world.speaks("x")


def start(body: Callable[[World, Path], None], folder: Path) -> list[multiprocessing.process.BaseProcess]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    port, processes = free_port(), []
    for rank in range(2):
        environment = dict(zip(TORCHRUN, (rank, rank, 2), strict=True)) | {"MASTER_ADDR": "127.0.0.1"}
        processes.append(context.Process(target=run, args=(body, folder, environment | {"MASTER_PORT": port})))
        processes[-1].start()
    return processes


def run(body: Callable[[World, Path], None], folder: Path, environment: dict[str, object]) -> None:
    os.environ |= {name: str(value) for name, value in environment.items()}
    sys.stderr = open(folder / f"stderr-{environment['RANK']}", "w")  # noqa: SIM115 - ends with the process
    with World.join("cpu") as world:
        body(world, folder)


def talk(world: World, folder: Path) -> None:
    """What each rank got, as JSON."""
    said: list[object] = [world.gather({"rank": world.rank, "text": "é" * (1 + 100_000 * world.rank)})]
    said.append(world.first(lambda: f"from {world.rank}"))
    made = folder / "made"

    def make() -> bool:
        was_there = made.exists()
        made.touch()
        return was_there

    said.append(world.first_then_all(make))

    def fail() -> None:
        if world.rank == 1:
            raise DataError("shard 7 is gone")

    def break_down() -> None:
        if world.rank == 0:
            raise KeyError("defect")

    for work in (fail, break_down):
        try:
            world.together(work)
        except (SailctlError, KeyError) as error:
            said.append([type(error).__name__, str(error)])
    said.append([world.speaks("one line"), world.speaks(f"rank {world.rank}'s own")])
    (folder / f"said-{world.rank}").write_text(json.dumps(said))


def test_ranks_talk_and_fail_together(tmp_path: Path) -> None:
    processes = start(talk, tmp_path)
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    first, second = (json.loads((tmp_path / f"said-{rank}").read_text()) for rank in range(2))
    assert first[0] == second[0] == [{"rank": 0, "text": "é"}, {"rank": 1, "text": "é" * 100_001}]
    assert first[1] == second[1] == "from 0"
    assert [first[2], second[2]] == [False, True]
    assert first[3] == second[3] == ["DataError", "shard 7 is gone"]
    assert first[4] == ["KeyError", "'defect'"]  # a defect keeps its traceback where it is
    assert second[4] == ["TrainingError", "rank 0 failed with KeyError: 'defect'"]
    assert sorted([first[5][0], second[5][0]]) == [False, True] and first[5][1] and second[5][1]


def die_or_hang(world: World, folder: Path) -> None:
    """Rank 1 is gone at once, while rank 0 is somewhere where no message reaches it."""
    module.GRACE_S = 0.2
    world.gather(None)
    if world.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(120)


def test_a_rank_that_is_stuck_ends_too_when_another_dies(tmp_path: Path) -> None:
    processes = start(die_or_hang, tmp_path)
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [1, -signal.SIGKILL]
    line = (tmp_path / "stderr-0").read_text()
    assert line.startswith("error: rank 0 of 2 on ") and line.count("\n") == 1
    assert "another rank has ended or does not answer (rank 1: " in line and "--resume goes on" in line


def die_or_write(world: World, folder: Path) -> None:
    """Rank 1 is gone while rank 0 writes a checkpoint, which takes longer than the time of grace."""
    module.GRACE_S = 0.2

    def write() -> None:
        time.sleep(1)
        (folder / "checkpoint").touch()

    world.gather(None)
    if world.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    world.first(write)


def test_a_checkpoint_under_way_is_finished_when_a_rank_dies(tmp_path: Path) -> None:
    processes = start(die_or_write, tmp_path)
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [1, -signal.SIGKILL]
    assert (tmp_path / "checkpoint").is_file()
    assert "TrainingError: rank 0 of 2 on" in (tmp_path / "stderr-0").read_text()


def test_ranks_that_do_not_come_are_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEETING", module.timedelta(seconds=1))
    for name, value in zip(TORCHRUN, ("0", "0", "2"), strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    with pytest.raises(TrainingError, match=r"rank 0 of 2 on .* cannot meet the others at 127\.0\.0\.1:\d+"):
        World.join("cpu")
