"""The gate of a rate limiter: how long it pauses after a 429, and how much the service takes.

Pure: it is given the time and the counts, and never sleeps. `RateLimiter` is the shell.
"""

from __future__ import annotations

import math

import attrs

__all__ = ["AFTER_REFUSAL", "PROBE_SPACING", "Gate", "probe_step"]

PROBE_SPACING = 40  # submissions, at least, between a refusal or probe and the next probe
AFTER_REFUSAL = 45  # after a refusal: so many at least,
PROBE_SPANS = 4  # ... and as many as in so many spans
PAUSE_SHARE = 0.05  # of the time: what pauses after refused probes may cost
FIRST_STEP = 2  # slots that the first probe after a refusal is wider by, at most


def probe_step(width: int, *, again: bool) -> int:
    """By how many slots a probe is wider.

    Args:
        width: the slots before.
        again: whether the probe before it held.
    """
    first = min(FIRST_STEP, max(1, width // 2))
    return max(first, width // 2) if again else first


@attrs.frozen(kw_only=True)
class Gate:
    """When the next attempt may be sent, and how many in a span. Knows no clock, never sleeps.

    It learns how many attempts in a span the service takes (*width*), from 429s and from nothing
    else, and why that ends near the service's limit L, whatever L is:

    - A refusal that follows others, or comes when the slots are full, leaves as many slots as
      attempts passed in the span before it. Under a window or a bucket of L that is L at most a
      boundary too high, and the next refusal corrects it. The first refusal after 40 submissions,
      or with slots to spare, is somebody else's burst or a deploy, as far as is known: it costs a
      pause and one attempt at a time, and no slot. So does a row of refusals, however long,
      because where nothing passes the width is not what is wrong.
    - A probe is one or two slots more, after *spacing* submissions that filled the width: 40 or
      more, 45 or four spans after a refusal, and so many that the pause costs little. Where it
      holds, the next is wider by half, so that it recovers from any width within some probes,
      needing only that submissions pass. Where it is refused, as many slots stay as passed in the
      span before, no fewer than before the probe, and not all of the probe's.
    - The slots of a probe are used at random moments of the span (`RateLimiter`). Among clients
      that share a key and use all of it, the moment at which a place comes free is known to its
      owner alone: used just then, a probe takes the place of another one, who is refused in its
      stead, again and again. At another moment it is the probe that is refused, so nobody gains
      by probing what others use. And nothing is sent after a refusal before a slot of one's own
      is free again: until then all places are theirs.
    - A pass ends the row of refusals, and pauses begin at the shortest again.
    - Where *limit* is right nothing is refused, and then none of this happens.

    Attributes:
        limit: the most attempts in a span; never exceeded.
        per: the span in seconds; where it is 0 nothing is learned.
        opens_at: when the pause ends.
        refusals: how many pauses in a row the service has asked for.
        at_once: how many attempts may be in flight: one after a pause, one more with each answer.
        takes: how many attempts passed in the span before the last refusal; 0: unknown.
        former: the width before that.
        changed_at: how many submissions had passed at the last refusal or probe; None for never.
        spacing: how many must pass from there to the next probe.
        step: by how many slots the last probe was wider; 0: it was refused, or there was none.
    """

    limit: int
    per: float = 10.0
    opens_at: float = -math.inf
    refusals: int = 0
    at_once: float = math.inf
    takes: int = 0
    former: int = attrs.field(default=attrs.Factory(lambda gate: gate.limit, takes_self=True))
    changed_at: int | None = None
    spacing: float = PROBE_SPACING
    step: int = 0

    @property
    def width(self) -> int:
        """How many attempts of a span the service takes, as far as is known."""
        return self.takes or self.former

    def delay(self, now: float, in_flight: int = 0) -> float:
        """Seconds until an attempt may be sent; inf while it depends on one in flight."""
        if now < self.opens_at:
            return self.opens_at - now
        return 0.0 if in_flight < self.at_once else math.inf

    def refused(self, sent_at: float, *, passed: int, in_span: int, full: bool) -> Gate:
        """Count a 429.

        One that was sent before the gate opened belongs to the pause before: many refusals of one
        burst count once.

        Args:
            sent_at: when the refused attempt was sent.
            passed: how many submissions have passed in all.
            in_span: how many of them in the span before it, those that may have passed included.
            full: whether as many slots were in use, or delayed, as there are.
        """
        if sent_at < self.opens_at:
            return self
        width = self.width
        gate = attrs.evolve(
            self,
            refusals=self.refusals + 1,
            at_once=1,
            takes=width,
            former=width,
            changed_at=passed,
            step=0,
        )
        known = self.changed_at is not None and passed - self.changed_at < PROBE_SPACING
        if self.refusals or self.per == 0 or not (known or (self.changed_at is None and full)):
            return gate
        takes = min(in_span, width)
        if self.step == 0:
            return attrs.evolve(gate, takes=takes)
        takes = max(width - self.step, min(takes, width - 1))
        return attrs.evolve(gate, takes=takes, former=takes)

    def closed_for(self, pause: float, now: float, *, own_in: float = 0.0) -> Gate:
        """Close for *pause* seconds from *now*; never open earlier than before.

        Args:
            pause: seconds.
            now: the time.
            own_in: seconds until a slot is free again, where all are in use: where less than
                *limit* passes, nothing is sent before.
        """
        cost = pause * self.width / self.per / PAUSE_SHARE if self.per else 0.0
        spacing = max(AFTER_REFUSAL, PROBE_SPANS * self.width, cost)
        opens_at = now + max(pause, min(own_in, self.per) if self.width < self.limit else 0.0)
        return attrs.evolve(self, opens_at=max(self.opens_at, opens_at), spacing=spacing)

    def answered(self, sent_at: float, *, passed: int, full: bool) -> Gate:
        """Count an attempt that passed: one more may go at the same time, in the end all.

        One that was sent before the gate closed says nothing of the time after; it is one of
        those that passed in the span before the refusal.

        Args:
            sent_at: when it was sent.
            passed: how many submissions have passed in all, with this one.
            full: whether it had taken the last slot of the width.
        """
        if sent_at < self.opens_at:
            return attrs.evolve(self, takes=min(self.takes + 1, self.former))
        gate = self
        if gate.at_once < math.inf:
            at_once = gate.at_once + 1
            at_once = at_once if at_once < gate.width else math.inf
            gate = attrs.evolve(gate, refusals=0, at_once=at_once)
        return gate.probed(passed) if full and gate.width < gate.limit else gate

    def probed(self, passed: int) -> Gate:
        """Have more slots, if enough submissions have passed since the last refusal or probe."""
        if passed - (self.changed_at or 0) < self.spacing:
            return self
        width = min(self.width + probe_step(self.width, again=self.step > 0), self.limit)
        return attrs.evolve(
            self,
            takes=width,
            former=width,
            changed_at=passed,
            spacing=PROBE_SPACING,
            step=width - self.width,
        )

    def assuming(self, takes: int) -> Gate:
        """Begin with what an earlier process has learned; a hint, which probes correct."""
        width = max(1, min(takes, self.limit))
        return attrs.evolve(self, takes=width, former=width)
