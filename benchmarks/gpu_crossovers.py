"""Where the ways of summing pairs cross on a GPU: what `algorithm="auto"` goes by there.

python -m benchmarks.gpu_crossovers             a line of JSON a size, a second each

Milliseconds of a step (forward, backward, state) replayed from a CUDA graph, by the direct way and
by the near-linear one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import torch

from benchmarks.gpu_kernels import (
    Step,
    Work,
    average_precision,
    log_sums,
    pairs,
    partial_auc,
    replayed,
)

Build = Callable[[], tuple[Step, Work]]
NEAR = {"squared_hinge": "sort", "hinge": "sort", "logistic": "smooth", "sigmoid": "smooth"}
NEAR_LOG = {"squared_hinge": "smooth", "hinge": "sort", "logistic": "sort"}


def works() -> Iterator[tuple[str, dict[str, Build]]]:
    """A name, and the ways of doing it."""
    for surrogate, near in NEAR.items():
        for n in (4096, 8192, 16384, 32768):
            yield (
                f"pairs {surrogate} {n}",
                {
                    a: lambda n=n, a=a, s=surrogate: pairs(s, n, a)  # type: ignore[misc]
                    for a in ("direct", near)
                },
            )
    for surrogate, near in NEAR_LOG.items():
        for n in (4096, 8192, 16384):
            yield (
                f"log sums {surrogate} {n}",
                {
                    a: lambda n=n, a=a, s=surrogate: log_sums(s, n, a)  # type: ignore[misc]
                    for a in ("direct", near)
                },
            )
    for surrogate in ("squared_hinge", "logistic"):
        for n in (16384, 32768, 65536, 131072):
            yield (
                f"AP {surrogate} {n}, {n // 10} positives",
                {
                    a: lambda n=n, a=a, s=surrogate: average_precision(  # type: ignore[misc]
                        n, n // 10, surrogate=s, algorithm=a
                    )
                    for a in ("direct", NEAR[surrogate])
                },
            )
    for n in (16384, 32768, 65536, 131072):
        yield (
            f"PartialAUCLoss kl {n}",
            {
                a: lambda n=n, a=a: partial_auc("PartialAUCLoss", n, algorithm=a)  # type: ignore[misc]
                for a in ("direct", "sort")
            },
        )


def main() -> int:
    if not torch.cuda.is_available():
        raise SystemExit("gpu_crossovers: no GPU is visible to torch; nothing was run")
    print(json.dumps({"gpu": torch.cuda.get_device_name()}), flush=True)
    for name, ways in works():
        found: dict[str, float | str] = {"work": name}
        for way, build in ways.items():
            try:
                step, _ = build()
                for _ in range(3):
                    step()
                found[way] = round(replayed(step), 4)
            except (RuntimeError, ValueError) as error:
                found[way] = f"{type(error).__name__}: {error}"[:200]
        print(json.dumps(found), flush=True)
        torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
