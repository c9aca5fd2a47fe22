"""The engine pool beside a bare aiohttp loop and the openai SDK; how full, how robust and how flat it is.

python benchmarks/engine_pool.py                 # CPU side by side, occupancy, one of four endpoints dead or slow
python benchmarks/engine_pool.py --long 200000   # memory over a long stream
python benchmarks/engine_pool.py --only cpu      # cpu, occupancy or goodput alone

Stub servers speak the real protocol over real HTTP, each in a process of its own; questions show a picture of 150 KB.
CPU is the processor time of the asking process alone, per question, in steady state: each side runs in a fresh process,
round after round in turn, and asks as many as are in flight beforehand to warm up. All sides do the same: encode the
picture, send it, read the answer's text. Occupancy is Little's law over the middle half of the completions: the time
questions were in flight there, over that span and the slots. Goodput counts usable answers a second; "ideal" is what
four healthy endpoints give. The bare side encodes with pybase64, as ours does, the SDK's with what Python has, as its
documentation does. The openai side needs the packages openai and httpx-aiohttp.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from sailctl.core.engines.ask import Answer, Ask  # noqa: E402
from sailctl.core.engines.pool import HttpPool, PoolOptions  # noqa: E402
from sailctl.core.records import Turn  # noqa: E402
from tests.stub_engine import Stub, stubs  # noqa: E402

PROMPT = "Describe the image in detail."
SIDES = ("ours", "bare", "openai-aiohttp", "openai")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("cpu", "occupancy", "goodput"))
    parser.add_argument("--questions", type=int, default=3000, help="of one side and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--in-flight", type=int, default=1024, help="of the CPU comparison")
    parser.add_argument("--size", type=int, default=150_000, help="bytes of a picture")
    parser.add_argument("--slots", type=int, default=1024, help="of the occupancy")
    parser.add_argument("--mean", type=float, default=3.0, help="seconds of an answer, lognormal, for the occupancy")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each goodput")
    parser.add_argument("-l", "--long", type=int, metavar="QUESTIONS", help="memory over so many questions instead")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(asyncio.run(measure_side(options))))
        return
    found: dict[str, Any] = {}
    if options.long:
        found |= memory(options)
    else:
        for name, measure in (("cpu", cpu), ("occupancy", occupancy), ("goodput", goodput)):
            if options.only in (None, name):
                found |= measure(options)
    print(json.dumps(found) if options.json else "\n".join(f"{name:56s} {value}" for name, value in found.items()))


def pictures(size: int) -> Callable[[int], bytes]:
    """Pictures by number, each another."""
    noise = b"\xff\xd8\xff" + os.urandom(size - 11)
    return lambda number: noise + number.to_bytes(8, "big")


async def questions(count: int, size: int) -> AsyncIterator[Ask]:
    """A stream of questions."""
    picture, number = pictures(size), 0
    while number < count:
        yield Ask(str(number), (Turn("user", f"<image>\n{PROMPT}"),), (picture(number),))
        number += 1


# --- processor time ------------------------------------------------------------------------------------------------


def cpu(options: argparse.Namespace) -> dict[str, Any]:
    """Microseconds a question of every side, in turn."""
    sides = list(SIDES)
    for package, side in (("openai", "openai"), ("httpx_aiohttp", "openai-aiohttp")):
        if importlib.util.find_spec(package) is None:
            print(f"without {side}: pip install openai httpx-aiohttp", file=sys.stderr)
            sides.remove(side)
    taken: dict[str, list[float]] = {side: [] for side in sides}
    with Stub(mean_s=options.in_flight / 1000, sigma=0.5) as stub:
        for _ in range(options.rounds):
            for side in sides:
                command = [sys.executable, __file__, "--side", side, "--url", stub.url]
                for name in ("questions", "in_flight", "size"):
                    command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                taken[side].append(json.loads(done.stdout)["cpu_us"])
    found = {f"CPU a question, {side}, µs": round(median(values)) for side, values in taken.items()}
    for side in sides[1:]:
        ratio = median(mine / other for mine, other in zip(taken["ours"], taken[side], strict=True))
        found[f"ours ÷ {side}, median of rounds"] = round(ratio, 3)
    return found


async def measure_side(options: argparse.Namespace) -> dict[str, float]:
    """One side in this process: what is in flight at once to warm up, then the rest is measured."""
    ask_all = {"ours": ours, "bare": bare, "openai-aiohttp": openai, "openai": openai}[options.side]
    count, warm = options.questions, options.in_flight
    began = [0.0]

    def tick(done: int) -> None:
        if done == warm:
            began[0] = time.process_time()

    await ask_all(options, count + warm, tick)
    return {"cpu_us": (time.process_time() - began[0]) / count * 1e6}


async def ours(options: argparse.Namespace, count: int, tick: Callable[[int], None]) -> None:
    """The pool."""
    pool = HttpPool([options.url], "stub", options=PoolOptions(in_flight=options.in_flight))
    done = 0
    async for outcome in pool.run(questions(count, options.size)):
        assert isinstance(outcome, Answer), outcome
        done += 1
        tick(done)
    await pool.close()


async def workers(options: argparse.Namespace, count: int, tick: Callable[[int], None], one: Any) -> None:
    """As many loops as may be in flight, each asking one question after the other."""
    picture, numbers, done = pictures(options.size), iter(range(count)), 0

    async def work() -> None:
        nonlocal done
        for number in numbers:
            text = await one(picture(number))
            assert text
            done += 1
            tick(done)

    await asyncio.gather(*(work() for _ in range(options.in_flight)))


def messages(image: bytes, encode: Callable[[bytes], bytes] = base64.b64encode) -> list[dict[str, Any]]:
    """A request's messages, as the documentation of the SDK builds them."""
    url = f"data:image/jpeg;base64,{encode(image).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": PROMPT}]
    return [{"role": "user", "content": parts}]


async def bare(options: argparse.Namespace, count: int, tick: Callable[[int], None]) -> None:
    """aiohttp, orjson and pybase64, as fast as the pool has them, and nothing around them."""
    import aiohttp
    import orjson
    import pybase64

    url, headers = f"{options.url}/chat/completions", {"Content-Type": "application/json"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one(image: bytes) -> str:
            body = {
                "model": "stub",
                "messages": messages(image, pybase64.b64encode),
                "max_tokens": 1024,
                "temperature": 0.0,
            }
            async with session.post(url, data=orjson.dumps(body), headers=headers) as response:
                text: str = orjson.loads(await response.read())["choices"][0]["message"]["content"]
                return text

        await workers(options, count, tick, one)


async def openai(options: argparse.Namespace, count: int, tick: Callable[[int], None]) -> None:
    """The SDK, on its aiohttp transport or on its default one."""
    from openai import AsyncOpenAI, DefaultAioHttpClient

    http = DefaultAioHttpClient() if options.side == "openai-aiohttp" else None
    async with AsyncOpenAI(base_url=options.url, api_key="none", http_client=http) as client:

        async def one(image: bytes) -> str | None:
            asked = await client.chat.completions.create(
                model="stub",
                messages=messages(image),  # type: ignore[arg-type]
                max_tokens=1024,
                temperature=0.0,  # type: ignore[arg-type]
            )
            return asked.choices[0].message.content

        await workers(options, count, tick, one)


# --- how full ------------------------------------------------------------------------------------------------------


def occupancy(options: argparse.Namespace) -> dict[str, Any]:
    """Little's law over the middle half of completions, against one endpoint."""
    count = int(options.slots * max(60.0, 8 * options.mean) / options.mean)

    async def run(url: str) -> tuple[list[tuple[float, float]], float]:
        pool = HttpPool([url], "stub", options=PoolOptions(in_flight=options.slots))
        spans: list[tuple[float, float]] = []
        began, full = time.monotonic(), 0.0
        async for outcome in pool.run(questions(count, options.size)):
            assert isinstance(outcome, Answer), outcome
            now = time.monotonic()
            spans.append((now - outcome.seconds, now))
            if not full and pool.in_flight >= 0.99 * options.slots:
                full = now - began
        await pool.close()
        return spans, full

    with Stub(mean_s=options.mean, sigma=0.5) as stub:
        spans, full = asyncio.run(run(stub.url))
        most = stub.control()["most_in_flight"]
    ends = sorted(end for _, end in spans)
    start, stop = ends[count // 4], ends[3 * count // 4]
    in_flight = sum(max(0.0, min(end, stop) - max(begin, start)) for begin, end in spans) / (stop - start)
    return {
        f"occupancy at {options.slots} in flight, {count} answers of {options.mean:g} s": round(
            in_flight / options.slots, 4
        ),
        "seconds until 99% of the slots were full": round(full, 2),
        "most in flight, as the server saw it": most,
    }


# --- how robust ----------------------------------------------------------------------------------------------------


def goodput(options: argparse.Namespace) -> dict[str, Any]:
    """Four endpoints of 64 places each: all healthy, one dead in several ways, one slow, and whether it comes back."""
    found: dict[str, Any] = {}
    ideal = 0.0
    changes: dict[str, dict[str, Any]] = {
        "all healthy": {},
        "one refuses connections": {"dead": "refuse"},
        "one hangs": {"dead": "hang"},
        "one answers 500": {"dead": "status_500"},
        "one ten times slower": {"slow": 10.0},
    }
    for name, change in changes.items():
        rate, back = asyncio.run(_goodput(options, change))
        ideal = ideal or rate
        found[f"goodput, {name}, answers/s (share of ideal)"] = f"{rate:.0f} ({rate / ideal:.2f})"
        if change:
            found[f"  {name}: seconds until well again and giving half its share"] = back
    return found


async def _goodput(options: argparse.Namespace, change: dict[str, Any]) -> tuple[float, float | str]:
    """Answers a second while the last of four is changed from the start, and how soon it is used after it recovers."""
    loop = asyncio.get_running_loop()
    with stubs(4, mean_s=0.5, sigma=0.5, capacity=64) as servers:
        sick = servers[-1]
        if change:
            sick.control(**change)
        pool = HttpPool([server.url for server in servers], "stub", options=PoolOptions(in_flight=256))
        began, answers, mended = time.monotonic(), 0, 0.0
        recent: list[float] = []
        back: float | str = "not within 30"
        async for outcome in pool.run(questions(sys.maxsize, 20_000)):
            assert isinstance(outcome, Answer), outcome
            now = time.monotonic()
            if not mended:
                answers += 1
                if now - began > options.seconds:
                    if not change:
                        break
                    await loop.run_in_executor(None, lambda: sick.control(dead="", slow=1.0))
                    mended = time.monotonic()
                    rate = answers / (now - began)
                continue
            if outcome.endpoint == sick.url:
                recent = [moment for moment in recent if now - moment < 1.0] + [now]
                if len(recent) > rate / 8:
                    back = round(now - mended, 1)
                    break
            if now - mended > 30:
                break
        else:
            raise AssertionError("the stream has no end")
        await pool.close()
        return answers / ((mended or time.monotonic()) - began), back


# --- how flat ------------------------------------------------------------------------------------------------------


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """Resident memory after 10,000 questions and after many more."""

    async def run(url: str) -> list[float]:
        pool = HttpPool([url], "stub", options=PoolOptions(in_flight=options.in_flight))
        done, seen = 0, []
        async for outcome in pool.run(questions(options.long, options.size)):
            assert isinstance(outcome, Answer), outcome
            done += 1
            if done in (10_000, options.long):
                seen.append(resident_mib())
        await pool.close()
        return seen

    with Stub(mean_s=0.1, sigma=0.5) as stub:
        before, after = asyncio.run(run(stub.url))
    return {
        "RSS after 10,000 questions, MiB": round(before, 1),
        f"RSS after {options.long:,} questions, MiB": round(after, 1),
        "ratio": round(after / before, 3),
    }


def resident_mib() -> float:
    """This process's resident memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
