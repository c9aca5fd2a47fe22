"""How many requests an endpoint is sent at once: a limit that finds itself, and a breaker for when it answers none.

The limit is TCP's idea: double while all is well, shrink when a share objects, then grow ever faster for as long as
nobody objects again, but slowly where somebody did last time. Doubling goes by the clock, not by answers: an answer may
take seconds, a thousand slots must not take minutes to fill. After a refusal an answer is waited for, so what was in
flight then is what the server holds: that is what the limit shrinks to. A tenth of objections is borne: a flaky server,
which objects by chance whatever the limit, is not starved for it.
"""

from __future__ import annotations

import math
import random

START = 32
DOUBLE_S = 0.4
EPOCH_MIN_S, EPOCH_MAX_S = 0.5, 5.0
GROWTH, GROWTH_MAX = 0.04, 0.4  # of the limit, an epoch; doubled with each epoch without objection
GROWTH_NEAR = 0.01
NONE, BORNE = 0.02, 0.12  # shares of objections
ENOUGH = 20  # results to tell a share from
NEAR = 0.8  # of the limit that was too much: from here it grows slowly …
FORGET_EPOCHS = 30  # … for so long

FAILURES = 10  # in a row, and more than are in flight: failures are quick, answers take their time to break a row
CERTAIN_WEIGHT = 4  # a refused connection is better evidence than an error
OPEN_S, OPEN_MAX_S = 0.5, 15.0
PAUSE_MAX_S = 120.0  # longest Retry-After that is waited for before the next probe


class Limit:
    """The number of requests that may be in flight, at most `most`."""

    def __init__(self, most: int, now: float) -> None:
        self.most = most
        self.restart(now)

    def restart(self, now: float) -> None:
        """Begin anew, as after an outage."""
        self._value = float(min(START, self.most))
        self._doubling = True
        self._growth = GROWTH
        self._too_much = math.inf
        self._epochs = 0  # since the limit was too much
        self._epoch_at = now
        self._objections = 0.0
        self._results = 0
        self._used = 0
        self._held = math.inf  # in flight at a refusal
        self.waits = False  # for an answer, after a refusal

    @property
    def value(self) -> int:
        """The limit, at least 1."""
        return int(self._value)

    def begin(self, in_flight: int) -> None:
        """A request was sent, so many are in flight now."""
        if in_flight > self._used:
            self._used = in_flight

    def note(self, objection: float, in_flight: int) -> None:
        """A request ended and left so many in flight; `objection` is how far it says "too much", 1 is a refusal."""
        self._results += 1
        self._objections += objection
        self.waits = objection == 1 and in_flight > 0
        if objection == 1:
            self._held = min(self._held, float(in_flight))

    def update(self, now: float, latency_s: float) -> None:
        """Move the limit, when an epoch is over or a good part of what is in flight was refused."""
        passed = now - self._epoch_at
        if self._objections > max(8.0, self._value / 4):
            pass  # flooded with refusals
        elif passed < (DOUBLE_S if self._doubling else min(max(latency_s, EPOCH_MIN_S), EPOCH_MAX_S)) or (
            self._objections and self._results < min(ENOUGH, self._value) and passed < EPOCH_MAX_S
        ):
            return
        share = self._objections / self._results if self._results else 0.0
        self._epochs += 1
        if share - math.sqrt(share / max(self._results, 1)) > BORNE:  # more than chance makes of what is borne
            self._doubling = False
            self._growth = GROWTH
            self._too_much, self._epochs = self._value, 0
            target = self._held if self._held < self._value else self._value * (1 - share / 2)
            self._value = max(target, self._value / 2)
        elif self._used >= 0.75 * self._value:
            if self._epochs > FORGET_EPOCHS:
                self._too_much = math.inf
            if self._doubling:
                self._growth = 1.0
            elif self._value > NEAR * self._too_much:
                self._growth = GROWTH_NEAR
            elif share > NONE:
                self._growth = GROWTH
            self._value += max(0.25, self._growth * self._value)
            self._growth = min(2 * max(self._growth, GROWTH / 2), GROWTH_MAX)
        self._value = min(max(self._value, 1.0), float(self.most))
        self._epoch_at, self._objections, self._results, self._used, self._held = now, 0.0, 0, 0, math.inf


class Breaker:
    """Closed: all well. Open: not asked until a time. Probing: asked once, and the answer decides."""

    def __init__(self) -> None:
        self.state = "closed"
        self.reason = ""
        self.denied = False  # opened by refusals that no waiting mends
        self._row = 0
        self._opened = 0  # times in a row
        self._until = 0.0
        self._well_at = -math.inf

    def may_send(self, now: float, in_flight: int) -> bool:
        """Whether a request may be sent; one that is sent while open is the probe."""
        if self.state == "closed":
            return True
        return self.state == "open" and now >= self._until and in_flight == 0

    def begin(self) -> None:
        """A request is being sent."""
        if self.state == "open":
            self.state = "probing"

    def well(self, now: float) -> bool:
        """An answer came; returns whether that closed the breaker."""
        self._row = 0
        self._well_at = now
        if self.state == "closed":
            return False
        self.state, self._opened, self.denied = "closed", 0, False
        return True

    def ill(
        self,
        now: float,
        reason: str,
        *,
        in_flight: int = 0,
        certain: bool = False,
        denied: bool = False,
        bear_s: float = 0.0,
        pause_s: float | None = None,
    ) -> None:
        """A failure that speaks against the endpoint, with so many others in flight; `certain` ones need not be many.

        Where there was an answer within `bear_s` it is borne: a server that refuses what is too much is in order.
        """
        self._row += CERTAIN_WEIGHT if certain else 1
        enough = self._row >= FAILURES and (certain or self._row > in_flight) and now - self._well_at >= bear_s
        if self.state == "probing" or (self.state == "closed" and enough):
            self.state, self.reason, self.denied = "open", reason, denied
            wait = min(OPEN_MAX_S, OPEN_S * 2.0 ** min(self._opened, 10))
            self._opened += 1
            self._until = now + max(wait * random.uniform(0.5, 1.0), min(pause_s or 0.0, PAUSE_MAX_S))
