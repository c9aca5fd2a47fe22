"""How many requests an endpoint is sent at once: a limit that finds itself, and a breaker for when it answers none.

The limit is TCP's idea: double while nobody objects, shrink by the share that objected, then grow ever faster for as
long as all is well. Doubling goes by the clock, not by answers: an answer may take seconds, a thousand slots must not
take minutes to fill. A refusal share as small as chance makes it (a flaky proxy, not a full server) never starves it.
"""

from __future__ import annotations

import random

START = 32
DOUBLE_S = 0.4
EPOCH_MIN_S, EPOCH_MAX_S = 0.5, 5.0
GROWTH = 0.05  # of the limit, an epoch; doubled with each epoch without objection
TOLERATED = 0.02  # share of objections

FAILURES = 10  # in a row, none of them about the question
CONNECT_WEIGHT = 4  # a refused connection is better evidence than an error
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
        self._epoch_at = now
        self._objections = 0.0
        self._results = 0
        self._used = 0

    @property
    def value(self) -> int:
        """The limit, at least 1."""
        return int(self._value)

    def begin(self, in_flight: int) -> None:
        """A request was sent, so many are in flight now."""
        if in_flight > self._used:
            self._used = in_flight

    def note(self, objection: float) -> None:
        """A request ended; `objection` is how far it says "too much"."""
        self._results += 1
        self._objections += objection

    def update(self, now: float, latency_s: float) -> None:
        """Move the limit, when an epoch is over or a good part of what is in flight was refused."""
        length = DOUBLE_S if self._doubling else min(max(latency_s, EPOCH_MIN_S), EPOCH_MAX_S)
        flooded = self._objections > max(8.0, self._value / 4)
        if now - self._epoch_at < length and not flooded:
            return
        share = self._objections / self._results if self._results else 0.0
        used = self._used >= 0.75 * self._value
        if share > TOLERATED:
            self._doubling = False
            self._growth = GROWTH
            self._value *= 1 - share / 2
        elif used:
            self._growth = 1.0 if self._doubling else min(2 * self._growth, 1.0)
        if used and share <= 0.2:
            self._value += max(1.0, self._growth * self._value)
        self._value = min(max(self._value, 1.0), float(self.most))
        self._epoch_at, self._objections, self._results, self._used = now, 0.0, 0, 0


class Breaker:
    """Closed: all well. Open: not asked until a time. Probing: asked once, and the answer decides."""

    def __init__(self) -> None:
        self.state = "closed"
        self.reason = ""
        self.denied = False  # opened by refusals that no waiting mends
        self._row = 0
        self._opened = 0  # times in a row
        self._until = 0.0

    def may_send(self, now: float, in_flight: int) -> bool:
        """Whether a request may be sent; one that is sent while open is the probe."""
        if self.state == "closed":
            return True
        return self.state == "open" and now >= self._until and in_flight == 0

    def begin(self) -> None:
        """A request is being sent."""
        if self.state == "open":
            self.state = "probing"

    def well(self) -> bool:
        """An answer came; returns whether that closed the breaker."""
        self._row = 0
        if self.state == "closed":
            return False
        self.state, self._opened, self.denied = "closed", 0, False
        return True

    def ill(self, now: float, reason: str, *, weight: int = 1, pause_s: float | None = None, denied: bool) -> None:
        """A failure that speaks against the endpoint."""
        self._row += weight
        if self.state == "probing" or (self.state == "closed" and self._row >= FAILURES):
            self.state, self.reason, self.denied = "open", reason, denied
            wait = min(OPEN_MAX_S, OPEN_S * 2.0 ** min(self._opened, 10))
            self._opened += 1
            self._until = now + max(wait * random.uniform(0.5, 1.0), min(pause_s or 0.0, PAUSE_MAX_S))
