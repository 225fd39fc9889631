"""Contrastive ops of 16-bit embeddings on a GPU, each way: errors against float64, and times.

python -m benchmarks.streamed_similarities

The ways (XRISK_SIMILARITIES): streamed through the tensor cores (up to 128 wide), in blocks of
16-bit products (and in blocks of other sizes), or converted to float32 first; small batches of the
fused steps have kernels of their own, without a name. Of ``contrastive_log_sums``: forward, and
forward with both gradients; of the fused steps: forward and backward, called and
replayed as a CUDA graph, with the share of the limit, 8 B^2 D flops at 790 TFLOP/s. Prints one line
of JSON a case. The status is 1 if a way is further from float64 than a few roundings of float32
sums and of the gradients' own dtype, or not the same bits twice.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import xrisk_ext as xr
from benchmarks.device_time import milliseconds
from xrisk_ext.ops import contrastive_log_sums
from xrisk_ext.reference import contrastive_log_sums as truth

WIDEST_STREAMED = 128
CHECKED = (
    (70, 130, 5, 1.0), (257, 1000, 33, 0.05), (1000, 3000, 128, 0.01), (2100, 4500, 200, 0.07),
)  # fmt: skip
CHECKED_STEPS = ((60, 24, 0.1), (2300, 72, 0.05))
RACED = ((1024, 64), (4096, 64), (4096, 128), (4096, 512))
RACED_STEPS = (
    (256, 128), (1024, 128), (4096, 64), (4096, 128), (4096, 512), (16384, 128), (32768, 768),
)  # fmt: skip
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
LIMIT_TFLOP_S = 790.0

Step = Callable[[], Any]


def ways(width: int, batch: int = 0) -> tuple[str, ...]:
    streamed = ("", "streamed") if width <= WIDEST_STREAMED else ()
    sized = ("blocks:4096", "blocks:8192") if batch > 4096 else ()
    return (*streamed, "blocks", *sized, "float32")


def embeddings(rows: int, width: int, dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width, generator=generator)
    return nn.functional.normalize(x).to("cuda", dtype).requires_grad_()


def step(sums: Callable[..., Tensor], q: Tensor, k: Tensor, **options: Any) -> list[Tensor]:
    value = sums(q, k, **options)
    return [value.detach(), *torch.autograd.grad(value.sum(), (q, k))]


def losses(batch: int, tau: float) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """By name, each at its first step; the ids of two samples are one."""
    index = torch.arange(batch, device="cuda") // 2
    own: dict[str, nn.Module] = {
        "sogclr": xr.GlobalContrastiveLoss(batch, temperature=tau).cuda(),
        "bimodal": xr.BimodalGlobalContrastiveLoss(batch, temperature=tau).cuda(),
    }
    others = {"nt_xent": xr.NTXentLoss(temperature=tau), "clip": xr.CLIPLoss(temperature=tau)}

    def global_loss(loss: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda a, b: loss(a, b, index)

    return {name: global_loss(loss) for name, loss in own.items()} | {
        name: loss.cuda() for name, loss in others.items()
    }


def error(found: Tensor, expected: Tensor, least: float) -> float:
    """Relative to the largest number, or `least`."""
    gap = (found.double() - expected.double()).abs().max()
    return float(gap / expected.abs().max().clamp(min=least))


def judged(call: Callable[[], list[Tensor]], expected: list[Tensor], dtype: torch.dtype) -> Any:
    rounding = 2 * torch.finfo(dtype).eps
    first, second = call(), call()
    errors = [
        error(a, e, least) for a, e, least in zip(first, expected, (1.0, 1e-30, 1e-30), strict=True)
    ]
    close = all(e <= limit for e, limit in zip(errors, (1e-5, rounding, rounding), strict=True))
    same = all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    return {"errors": [float(f"{e:.1e}") for e in errors], "good": close and same}


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
    for way in ways(width):
        os.environ["XRISK_SIMILARITIES"] = way
        found[way] = judged(lambda: step(contrastive_log_sums, q, k, **options), expected, dtype)
    return found


def check_step(name: str, dtype: torch.dtype, batch: int, width: int, tau: float) -> dict[str, Any]:
    """The truth is the step's own in float64, which multiplies in float64."""
    a, b = embeddings(batch, width, dtype, 0), embeddings(batch, width, dtype, 1)
    with torch.no_grad():
        a[0] = 0
        a[1] *= 1e-3 if dtype == torch.float16 else 1e-20
        b[1] *= 4 if dtype == torch.float16 else 1e18
    wide = [t.detach().double().requires_grad_() for t in (a, b)]

    def fresh(x: Tensor, y: Tensor) -> list[Tensor]:
        found = step(losses(batch, tau)[name], x, y)
        # a row's gradient is as large as the row is short
        lengths = (t.detach().double().norm(dim=1, keepdim=True) for t in (x, y))
        return [found[0], *(g.double() * n for g, n in zip(found[1:], lengths, strict=True))]

    expected = fresh(wide[0], wide[1])
    found: dict[str, Any] = {"step": name, "batch": batch, "width": width, "temperature": tau}
    for way in ways(width):
        os.environ["XRISK_SIMILARITIES"] = way
        found[way] = judged(lambda: fresh(a, b), expected, dtype)
    return found


def race(dtype: torch.dtype, batch: int, width: int) -> dict[str, Any]:
    q, k = embeddings(batch, width, dtype, 0), embeddings(batch, width, dtype, 1)
    found: dict[str, Any] = {"batch": batch, "width": width}
    for way in ways(width):
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


def captured(call: Step) -> Step:
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def race_step(name: str, dtype: torch.dtype, batch: int, width: int) -> dict[str, Any]:
    a, b = embeddings(batch, width, dtype, 0), embeddings(batch, width, dtype, 1)
    loss = losses(batch, 0.07)[name]
    found: dict[str, Any] = {"step": name, "batch": batch, "width": width}
    # rows and columns of similarities: both views of one modality are anchors and keys
    side = batch if name in ("bimodal", "clip") else 2 * batch
    for way in ways(width, side):
        os.environ["XRISK_SIMILARITIES"] = way
        called = milliseconds(lambda: step(loss, a, b))
        replayed = milliseconds(captured(lambda: step(loss, a, b)))
        share = 8 * side**2 * width / (replayed * 1e9) / LIMIT_TFLOP_S
        found[way] = {
            "called_ms": round(called, 4),
            "graph_ms": round(replayed, 4),
            "of_limit": round(share, 3),
        }
    return found


def race_products(width: int) -> dict[str, Any]:
    """The products of blocks alone, TFLOP/s: similarities of n x n, gradients by n x n weights."""
    found: dict[str, Any] = {"products": width}
    for n in (2048, 3072, 4096, 6144, 8192):
        x = torch.randn(n, width, device="cuda").bfloat16()
        weights = torch.randn(n, n, device="cuda").bfloat16()
        factors = {"similarities": (x, x.T), "rows": (weights, x), "columns": (weights.T, x)}

        def rate(left: Tensor, right: Tensor) -> float:
            ms = milliseconds(lambda: torch.mm(left, right, torch.float32))
            return round(2 * left.shape[0] * left.shape[1] * right.shape[1] / ms / 1e9, 1)

        found[str(n)] = {what: rate(*both) for what, both in factors.items()}
    return found


def main() -> int:
    if not torch.cuda.is_available():
        raise SystemExit("streamed_similarities: no GPU is visible to torch; nothing was run")
    good = True

    def tell(dtype: str, found: dict[str, Any]) -> None:
        nonlocal good
        good = good and all(v.get("good", True) for v in found.values() if isinstance(v, dict))
        print(json.dumps({"dtype": dtype, **found}), flush=True)

    for name, dtype in DTYPES.items():
        for checked in CHECKED:
            tell(name, check(dtype, *checked))
        for shape in CHECKED_STEPS:
            for loss in ("sogclr", "bimodal", "nt_xent", "clip"):
                tell(name, check_step(loss, dtype, *shape))
    for raced in RACED:
        tell("bfloat16", race(torch.bfloat16, *raced))
    for loss in ("bimodal", "sogclr"):
        for raced in RACED_STEPS:
            tell("bfloat16", race_step(loss, torch.bfloat16, *raced))
    for width in (128, 512, 768):
        tell("bfloat16", race_products(width))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
