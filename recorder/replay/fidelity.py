"""How far from its time each chunk of a replay went out: counted, not kept, so that a replay may go on for days."""

from __future__ import annotations

from collections import Counter
from typing import Any

_EXACT_US = 1000
"""Up to here errors are counted by the µs, beyond by three digits."""


class Fidelity:
    def __init__(self) -> None:
        self.worst_us = 0.0
        self._counts: Counter[int] = Counter()

    def add(self, error_us: float) -> None:
        """One chunk more, so many µs late (or early)."""
        error_us = abs(error_us)
        if error_us > self.worst_us:
            self.worst_us = error_us
        whole = int(error_us)
        if whole >= _EXACT_US:
            digits = 10 ** (len(str(whole)) - 3)
            whole -= whole % digits
        self._counts[whole] += 1

    def __len__(self) -> int:
        return self._counts.total()

    def quantile(self, share: float) -> float:
        """The smallest error, in µs, that this share of all is not above."""
        left = share * len(self)
        for error_us in sorted(self._counts):
            left -= self._counts[error_us]
            if left <= 0:
                return float(error_us)
        return self.worst_us

    def document(self) -> dict[str, Any] | None:
        """p50, p99 and the worst, in ms; None where nothing was paced."""
        if not len(self):
            return None
        p50, p99 = (round(self.quantile(share) / 1000, 3) for share in (0.5, 0.99))
        return {"chunks": len(self), "p50_ms": p50, "p99_ms": p99, "worst_ms": round(self.worst_us / 1000, 3)}


def shown(document: dict[str, Any] | None) -> str:
    """The same for people; '' where nothing was paced."""
    if document is None:
        return ""
    p50, p99, worst = (document[f"{name}_ms"] for name in ("p50", "p99", "worst"))
    return f"pace: {document['chunks']:,} chunks, off by p50 {p50} ms, p99 {p99} ms, at the worst {worst} ms"
