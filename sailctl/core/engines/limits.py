"""What a run may use: requests and tokens a minute, retries, hedges, money. Plain numbers against a clock given in."""

from __future__ import annotations

from collections.abc import Sequence

from sailctl.core.engines.ask import Ask
from sailctl.core.engines.faults import Reply
from sailctl.core.errors import UsageError

BURST_S = 1.0  # a bucket holds what flows in within this time: providers count over windows of seconds
TOKENS_PER_IMAGE = 1000  # a guess, until the first answers tell


class Bucket:
    """A token bucket that may be overdrawn by one taker: `ready` while it holds anything, then time pays the debt."""

    def __init__(self, per_minute: float, now: float, *, name: str = "rate") -> None:
        if not per_minute > 0:
            raise UsageError(f"{name} {per_minute:g}: must be above 0; leave it out for no limit")
        self.per_second = per_minute / 60
        self.most = max(self.per_second * BURST_S, 1.0)
        self.level = self.most
        self._at = now

    def ready(self, now: float) -> bool:
        """Whether something may be taken."""
        self.level = min(self.most, self.level + (now - self._at) * self.per_second)
        self._at = now
        return self.level > 0.999_999  # what takers gave and time adds up to, within rounding

    def take(self, amount: float) -> None:
        """Take, or give back what was taken too much."""
        self.level -= amount


class Credit:
    """Credit that deeds earn and time trickles in, up to a limit: what extra requests are paid from."""

    def __init__(self, most: float, now: float, *, start: float, per_second: float = 0.0) -> None:
        self.most = most
        self.level = start
        self.per_second = per_second
        self._at = now

    def earn(self, amount: float) -> None:
        """Add."""
        self.level = min(self.most, self.level + amount)

    def spend(self, now: float) -> bool:
        """Take one, if there is one."""
        self.level = min(self.most, self.level + (now - self._at) * self.per_second)
        self._at = now
        if self.level < 1:
            return False
        self.level -= 1
        return True


class Usage:
    """Tokens and money: what was used, what a request is likely to use, and whether another may be sent."""

    def __init__(self, price_in: float, price_out: float, max_cost: float | None) -> None:
        if max_cost is not None and not (max_cost > 0 and price_in + price_out > 0):
            raise UsageError(
                f"max_cost {max_cost:g} with prices {price_in:g} and {price_out:g} per million tokens: a cap and at "
                "least one price must be above 0"
            )
        self.price_in, self.price_out, self.max_cost = price_in, price_out, max_cost
        self.prompt_tokens = self.completion_tokens = 0  # of answers, as servers reported them or else as guessed
        self.uncounted = 0  # answers whose tokens are guessed
        self._unreported = [0.0, 0.0]  # of answers that never came, estimated
        self._mean: list[float] | None = None  # prompt and completion tokens of a request, of late

    @property
    def cost(self) -> float:
        """Money used, for answers that never came, too."""
        prompt, completion = self._unreported
        return self.price(self.prompt_tokens + prompt, self.completion_tokens + completion)

    def price(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Money for tokens."""
        return (prompt_tokens * self.price_in + completion_tokens * self.price_out) / 1e6

    def expect(self, ask: Ask) -> Sequence[float]:
        """Prompt and completion tokens a question is likely to use; before any answer, the most it may."""
        if self._mean is not None:
            return self._mean
        return _guess(ask), ask.max_tokens

    def note(self, ask: Ask, reply: Reply) -> tuple[int, int]:
        """Count an answer's tokens, usable or not: they are paid for. Returns those of prompt and completion.

        Where a server counts none they are guessed from the texts, so that a cap holds there too.
        """
        prompt, completion = reply.prompt_tokens, reply.completion_tokens
        if not reply.counted:
            self.uncounted += 1
            prompt = round(_guess(ask))
            completion = len(reply.text.encode("utf-8", "replace")) // 3
        self.prompt_tokens += prompt
        self.completion_tokens += completion
        if self._mean is None:
            self._mean = [float(prompt), float(completion)]
        else:
            self._mean[0] += 0.05 * (prompt - self._mean[0])
            self._mean[1] += 0.05 * (completion - self._mean[1])
        return prompt, completion

    def guess(self, ask: Ask) -> tuple[int, int]:
        """Count what an answer that never came, but may have been made, is likely to have used; returns it."""
        prompt, completion = (round(count) for count in self.expect(ask))
        self._unreported[0] += prompt
        self._unreported[1] += completion
        return prompt, completion

    def affords(self, ask: Ask, in_flight: int) -> bool:
        """Whether another request keeps to the cap when it and those in flight cost what they are likely to.

        The very first may always be sent: what it costs is not known before.
        """
        if self.max_cost is None or (self._mean is None and in_flight == 0):
            return True
        return self.cost + (in_flight + 1) * self.price(*self.expect(ask)) <= self.max_cost


def _guess(ask: Ask) -> float:
    return sum(len(turn.text) for turn in ask.turns) / 2 + TOKENS_PER_IMAGE * len(ask.images)
