"""The journal: keyed records that outlive kills, torn ends, flipped bits, full disks and rivals."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sailctl.core.journal import Busy, Journal, by_turns, try_lock

ROOT = Path(__file__).resolve().parents[1]


def lines(*records: dict[str, object]) -> bytes:
    bodies = [json.dumps(record).encode() for record in records]
    return b"".join(b"%08x %s\n" % (zlib.crc32(body), body) for body in bodies)


def test_the_bytes_are_lines_with_their_sum(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "deep" / "j") as journal:
        journal.append("a", {"text": "ä\n"})
        journal.append("b", {"n": 1})
    written = (tmp_path / "deep" / "j").read_bytes()
    assert written == lines({"k": "a", "text": "ä\n"}, {"k": "b", "n": 1})
    assert written.count(b"\n") == 2 and written.startswith(b"%08x {" % zlib.crc32(written[9 : written.index(b"\n")]))


def test_the_last_record_of_a_key_counts_here_and_after_opening_again(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "j")
    for number in range(3):
        journal.append("a", {"n": number})
        journal.append(f"b{number}", {})
    for _ in range(2):
        assert journal.read("a") == {"n": 2}
        assert journal.keys() == ["a", "b0", "b1", "b2"] and len(journal) == 4 and "b1" in journal
        assert journal.damaged == 0
        journal.close()
        journal = Journal.open(tmp_path / "j")
    with pytest.raises(KeyError):
        journal.read("c")
    journal.forget("a")
    assert "a" not in journal
    journal.close()


@pytest.mark.parametrize("torn", [1, 8, 9, 12, 20])
def test_a_torn_end_is_cut_off_and_writing_goes_on(torn: int, tmp_path: Path) -> None:
    path = tmp_path / "j"
    sound = lines({"k": "a"}, {"k": "b"})
    last = lines({"k": "c", "text": "xyz"})
    path.write_bytes(sound + last[:torn])
    with Journal.open(path) as journal:
        assert journal.keys() == ["a", "b"] and path.read_bytes() == sound and journal.damaged == 0
        journal.append("d", {})
    assert path.read_bytes() == sound + lines({"k": "d"})


def test_a_hole_of_zeros_left_by_a_power_cut_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_bytes(lines({"k": "a"}) + bytes(4096))
    with Journal.open(path) as journal:
        assert journal.keys() == ["a"] and path.read_bytes() == lines({"k": "a"})


def test_a_flipped_bit_costs_its_own_line_only(tmp_path: Path) -> None:
    path = tmp_path / "j"
    data = bytearray(lines({"k": "a"}, {"k": "b", "text": "hello"}, {"k": "c"}))
    data[data.index(b"hello")] ^= 1
    path.write_bytes(data)
    with Journal.open(path) as journal:
        assert journal.keys() == ["a", "c"] and journal.damaged == 1
        journal.append("b", {"text": "again"})
    with Journal.open(path) as journal:
        assert journal.read("b") == {"text": "again"} and journal.read("c") == {}


@settings(max_examples=60, deadline=None)
@given(
    records=st.lists(st.tuples(st.sampled_from("abcde"), st.text(max_size=12)), max_size=12),
    data=st.data(),
)
def test_any_prefix_of_the_file_gives_the_records_that_were_whole(
    records: list[tuple[str, str]], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("j") / "j"
    ends, expected = [0], [{}]
    with Journal.open(path) as journal:
        for key, text in records:
            journal.append(key, {"text": text})
            ends.append(path.stat().st_size)
            expected.append({**expected[-1], key: text})
    cut = data.draw(st.integers(0, ends[-1]))
    os.truncate(path, cut)
    whole = max(number for number, end in enumerate(ends) if end <= cut)
    with Journal.open(path) as journal:
        assert {key: journal.read(key)["text"] for key in journal.keys()} == expected[whole]  # noqa: SIM118


def test_a_full_disk_takes_back_what_was_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal.open(tmp_path / "j")
    journal.append("a", {"n": 1})
    real = journal._handle

    class Full:
        """A handle whose disk takes ten more bytes."""

        room = 10

        def write(self, data: bytes) -> int:
            if not self.room:
                raise OSError(errno.ENOSPC, "No space left on device")
            taken, self.room = min(self.room, len(data)), self.room - min(self.room, len(data))
            return real.write(data[:taken])

        def __getattr__(self, name: str) -> object:
            return getattr(real, name)

    journal._handle = Full()  # type: ignore[assignment]
    with pytest.raises(OSError, match="No space left"):
        journal.append("b", {"n": 2})
    assert "b" not in journal and (tmp_path / "j").read_bytes() == lines({"k": "a", "n": 1})
    journal._handle = real
    journal.append("b", {"n": 3})
    assert journal.read("b") == {"n": 3}
    journal.close()


def test_syncing_is_due_by_bytes_and_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    journal = Journal.open(tmp_path / "j")
    assert not journal.due
    journal.append("a", {})
    assert not journal.due
    clock[0] = 1.0
    assert journal.due
    journal.sync()
    assert len(synced) == 1 and not journal.due
    journal.append("b", {"text": "x" * (1 << 20)})
    assert journal.due
    journal.close()
    assert len(synced) == 2


class TestRivals:
    def test_one_holder_at_a_time(self, tmp_path: Path) -> None:
        with Journal.open(tmp_path / "j") as journal:
            journal.append("a", {})
            with pytest.raises(Busy):
                Journal.open(tmp_path / "j")
        Journal.open(tmp_path / "j").close()

    def test_whoever_waited_at_a_removed_file_makes_a_new_one(self, tmp_path: Path) -> None:
        path = tmp_path / "j"
        journal = Journal.open(path)
        with open(path, "ab") as late:  # opened before the removal, locked after it
            journal.append("a", {})
            journal.remove()
            assert try_lock(late, path) and not path.exists()
            with Journal.open(path) as fresh:
                assert len(fresh) == 0

    def test_turns_come_one_after_the_other(self, tmp_path: Path) -> None:
        code = (
            "import sys\nfrom sailctl.core.journal import by_turns\n"
            "for _ in range(40):\n"
            "    with by_turns(sys.argv[1]):\n"
            "        n = int(open(sys.argv[2]).read())\n"
            "        open(sys.argv[2], 'w').write(str(n + 1))\n"
        )
        (tmp_path / "n").write_text("0")
        rivals = [
            subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "lock"), str(tmp_path / "n")], cwd=ROOT)
            for _ in range(2)
        ]
        assert [rival.wait(60) for rival in rivals] == [0, 0]
        assert (tmp_path / "n").read_text() == "80"
        with by_turns(tmp_path / "lock"):
            pass


def test_kill_9_loses_nothing_that_append_returned_from(tmp_path: Path) -> None:
    """The child says a number once it is noted; whatever was said when it dies is found again, and the lock is free."""
    code = (
        "import sys\nfrom sailctl.core.journal import Journal\n"
        "journal = Journal.open(sys.argv[1])\n"
        "for n in range(1_000_000):\n"
        "    journal.append(str(n), {'text': 'x' * (n % 300)})\n"
        "    sys.stdout.write(f'{n}\\n'); sys.stdout.flush()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "j")], stdout=subprocess.PIPE, cwd=ROOT)
    assert child.stdout is not None
    said = [child.stdout.readline() for _ in range(random.randrange(50, 400))]
    child.send_signal(signal.SIGKILL)
    said += child.stdout.readlines()
    child.wait()
    child.stdout.close()
    with Journal.open(tmp_path / "j") as journal:
        assert [str(n) for n in range(len(said))] == journal.keys()[: len(said)]
        assert len(said) <= len(journal) <= len(said) + 1
