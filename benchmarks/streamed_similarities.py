"""Contrastive log sums of 16-bit embeddings on a GPU, both ways: errors against float64, and times.

python -m benchmarks.streamed_similarities

Streamed through the tensor cores, or multiplied in blocks of float32
(XRISK_SIMILARITIES=streamed|blocks); forward, and forward with both gradients. Prints one line of
JSON a case. The status is 1 if a way is further from float64 than a few roundings of float32 sums
and of the gradients' own dtype, or not the same bits twice.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.device_time import milliseconds
from xrisk_ext.ops import contrastive_log_sums
from xrisk_ext.reference import contrastive_log_sums as truth

WAYS = ("streamed", "blocks")
CHECKED = (
    (70, 130, 5, 1.0), (257, 1000, 33, 0.05), (1000, 3000, 128, 0.01), (2100, 2500, 64, 0.07),
)  # fmt: skip
RACED = tuple((batch, width) for batch in (256, 1024, 4096, 16384) for width in (32, 64, 128))
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def embeddings(rows: int, width: int, dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width, generator=generator)
    return torch.nn.functional.normalize(x).to("cuda", dtype).requires_grad_()


def step(sums: Callable[..., Tensor], q: Tensor, k: Tensor, **options: Any) -> list[Tensor]:
    value = sums(q, k, **options)
    return [value.detach(), *torch.autograd.grad(value.sum(), (q, k))]


def error(found: Tensor, expected: Tensor) -> float:
    """Relative to the largest number."""
    gap = (found.double() - expected.double()).abs().max()
    return float(gap / expected.abs().max().clamp(min=1e-30))


def check(dtype: torch.dtype, rows: int, columns: int, width: int, tau: float) -> dict[str, Any]:
    q, k = embeddings(rows, width, dtype, 0), embeddings(columns, width, dtype, 1)
    # float16 below its normal range, which PTX leaves open
    with torch.no_grad():
        q[:, 0] *= 1e-4
    exclude = torch.randint(-1, columns, (rows, 2), device="cuda")
    options = {"temperature": tau, "exclude": exclude}
    wide = [t.detach().double().requires_grad_() for t in (q, k)]
    expected = step(truth, wide[0], wide[1], **options)
    found: dict[str, Any] = {"rows": rows, "columns": columns, "width": width, "temperature": tau}
    limits = (1e-5, 2 * torch.finfo(dtype).eps, 2 * torch.finfo(dtype).eps)
    for way in WAYS:
        os.environ["XRISK_SIMILARITIES"] = way
        first, second = (step(contrastive_log_sums, q, k, **options) for _ in range(2))
        errors = [error(a, e) for a, e in zip(first, expected, strict=True)]
        found[way] = {
            "errors": errors,
            "good": all(e <= limit for e, limit in zip(errors, limits, strict=True))
            and all(torch.equal(a, b) for a, b in zip(first, second, strict=True)),
        }
    return found


def race(dtype: torch.dtype, batch: int, width: int) -> dict[str, Any]:
    q, k = embeddings(batch, width, dtype, 0), embeddings(batch, width, dtype, 1)
    found: dict[str, Any] = {"batch": batch, "width": width}
    for way in WAYS:
        os.environ["XRISK_SIMILARITIES"] = way

        def forward() -> Tensor:
            with torch.no_grad():
                return contrastive_log_sums(q, k, temperature=0.07)

        found[way] = {
            "forward_ms": round(milliseconds(forward), 4),
            "step_ms": round(
                milliseconds(lambda: step(contrastive_log_sums, q, k, temperature=0.07)), 4
            ),
        }
    return found


def main() -> int:
    if not torch.cuda.is_available():
        raise SystemExit("streamed_similarities: no GPU is visible to torch; nothing was run")
    good = True
    for name, dtype in DTYPES.items():
        for checked in CHECKED:
            found = check(dtype, *checked)
            good = good and all(found[way]["good"] for way in WAYS)
            print(json.dumps({"dtype": name, **found}), flush=True)
    for name, dtype in DTYPES.items():
        for raced in RACED:
            print(json.dumps({"dtype": name, **race(dtype, *raced)}), flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
