"""Where a GPU's time goes: every family of kernels at the sizes that are asked for.

python -m benchmarks.gpu_kernels [NAME ...]     all cases, or those whose name contains a NAME
python -m benchmarks.gpu_kernels --times ...    their times alone, a few seconds in all

A line of JSON a case: milliseconds of a step (forward, backward, state) issued by Python and
replayed from a CUDA graph, the fraction of the least time that this card's measured rates allow,
the number of kernels, and the kernels that took the most. The peers' races are `python -m xrisk_ext
bench --device cuda`; this shows what to work on.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

import xrisk_ext as xr
from benchmarks.device_time import milliseconds

REPLAYS = 20  # between two events: a short graph is shorter than what an event costs
KERNELS_SHOWN = 6
COMMAND = [sys.executable, "-m", "benchmarks.gpu_kernels"]
Step = Callable[[], Any]


class Work(NamedTuple):
    """The least that a step must do."""

    bytes: float = 0.0
    lanes: float = 0.0  # float32 instruction slots
    flops16: float = 0.0  # of tensor cores, 16-bit inputs
    flops32: float = 0.0  # of float32 products


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator("cuda").manual_seed(seed)
    return torch.randn(*shape, generator=generator, device="cuda").to(dtype)


def differentiated(call: Callable[..., Tensor], *leaves: Tensor) -> Step:
    """A call and its gradients, as a training step computes them: into the leaves' `grad`."""
    for leaf in leaves:
        leaf.requires_grad_()

    def step() -> None:
        for leaf in leaves:
            leaf.grad = None
        value = call(*leaves)
        value.backward(torch.ones_like(value))

    return step


def score_loss(loss: torch.nn.Module, size: int, positives: int) -> Step:
    labels = torch.zeros(size, device="cuda")
    labels[torch.randperm(size)[:positives].cuda()] = 1
    index = torch.randperm(size).cuda()
    module = loss.cuda()
    return differentiated(lambda scores: module(scores, labels, index), random(size) + labels)


def average_precision(size: int, positives: int, **options: Any) -> tuple[Step, Work]:
    loss = xr.AveragePrecisionLoss(size, **options)
    # all pairs, or (what an algorithm without pairs needs) reading and writing a few arrays
    lanes = 4.0 * positives * size if positives * size < 1e8 else 0.0
    return score_loss(loss, size, positives), Work(bytes=16.0 * size, lanes=lanes)


def partial_auc(name: str, size: int, **options: Any) -> tuple[Step, Work]:
    loss = getattr(xr, name)(size, **options)
    return score_loss(loss, size, size // 10), Work(16.0 * size, 0.4 * size**2)


def pairs(surrogate: str, side: int, algorithm: str) -> tuple[Step, Work]:
    def call(x: Tensor, y: Tensor) -> Tensor:
        return xr.ops.pairwise_sums(x, y, surrogate=surrogate, algorithm=algorithm)

    lanes = 4.0 * side**2 if algorithm == "direct" else 0.0
    return differentiated(call, random(side), random(side, seed=1)), Work(16.0 * side, lanes)


def hard_pairs(kind: str) -> tuple[Step, Work]:
    """A million logistic pairs' sides whose bins are few, or as many as there can be."""
    side, scale = 1_000_000, 400.0 if kind == "scale 400" else 1.0
    x, y = random(side), random(side, seed=1)
    if kind == "tied":
        x, y = (t.mul(2).round().div(2) for t in (x, y))

    def call(x: Tensor, y: Tensor) -> Tensor:
        return xr.ops.pairwise_sums(x, y, surrogate="logistic", scale=scale, algorithm="smooth")

    return differentiated(call, x, y), Work(16.0 * side)


def log_sums(surrogate: str, side: int, algorithm: str) -> tuple[Step, Work]:
    def call(x: Tensor, y: Tensor) -> Tensor:
        return xr.ops.pairwise_log_sums(
            x, y, surrogate=surrogate, temperature=0.5, algorithm=algorithm
        )

    lanes = 8.0 * side**2 if algorithm == "direct" else 0.0
    return differentiated(call, random(side), random(side, seed=1)), Work(16.0 * side, lanes)


def moving_average(rows: int, entries: int) -> tuple[Step, Work]:
    state, values = torch.zeros(rows, device="cuda"), random(entries)
    index = torch.randperm(rows)[:entries].cuda()
    gamma = torch.tensor(0.9, device="cuda")

    def step() -> None:
        xr.ops.moving_average_update_(state, index, values, gamma)

    return step, Work(bytes=76.0 * entries)


def threshold(rows: int, size: int, k: int, method: str = "exact") -> tuple[Step, Work]:
    scores = random(rows, size)

    def step() -> None:
        if method == "torch.topk":
            torch.topk(scores, k + 1)
        elif method == "kthvalue":
            torch.kthvalue(scores, size - k)
        else:
            xr.ops.topk_threshold(scores, k, method=method)

    return step, Work(bytes=4.0 * rows * size)


def ranking(lists: int, size: int, **options: Any) -> tuple[Step, Work]:
    loss = xr.NDCGLoss(lists * size, lists, **options).cuda()
    relevance = torch.zeros(lists, size, dtype=torch.long)
    relevance[:, :10] = torch.randint(1, 5, (lists, 10))
    index = torch.where(relevance > 0, torch.arange(lists * size).view(lists, size), -1).cuda()
    queries, target = torch.arange(lists).cuda(), relevance.cuda()
    step = differentiated(lambda h: loss(h, target, index, queries), random(lists, size))
    return step, Work(bytes=24.0 * lists * size, lanes=4.0 * lists * 10 * size)


def listwise(name: str, lists: int, size: int) -> tuple[Step, Work]:
    loss = getattr(xr, name)().cuda()
    relevance = torch.randint(3, (lists, size)).cuda()
    step = differentiated(lambda h: loss(h, relevance), random(lists, size))
    pairs = 0.0 if name in ("ListNetLoss", "ListMLELoss") else 4.0 * lists * size**2
    return step, Work(bytes=16.0 * lists * size, lanes=pairs if size < 2000 else 0.0)


def contrastive(
    name: str, batch: int, width: int, dtype: torch.dtype, directions: int = 2, **options: Any
) -> tuple[Step, Work]:
    stateful = name.endswith("GlobalContrastiveLoss")
    loss = getattr(xr, name)(*((batch,) if stateful else ()), **options).cuda()
    index = (torch.arange(batch, device="cuda"),) if stateful else ()
    views = [torch.nn.functional.normalize(random(batch, width, seed=s)).to(dtype) for s in (0, 1)]
    step = differentiated(lambda a, b: loss(a, b, *index), *views)
    flops = 4.0 * directions * batch**2 * width  # 16 B^2 d for two views in one set, 8 across
    work = Work(flops16=flops) if dtype is not torch.float32 else Work(flops32=flops)
    return step, work._replace(bytes=8.0 * batch * width)


HALF = torch.bfloat16
FLOAT = torch.float32
CASES: dict[str, Callable[[], tuple[Step, Work]]] = {
    "AP 448, 64 positives": lambda: average_precision(448, 64),
    "AP 4096, 410 positives": lambda: average_precision(4096, 410),
    "AP 4096, 410 positives, direct": lambda: average_precision(4096, 410, algorithm="direct"),
    "AP 4096, 410 positives, sort": lambda: average_precision(4096, 410, algorithm="sort"),
    "AP 8192, 4096 positives": lambda: average_precision(8192, 4096),
    "AP 32768, 3277 positives": lambda: average_precision(32768, 3277),
    "AP 32768, 3277 positives, direct": lambda: average_precision(32768, 3277, algorithm="direct"),
    "AP 32768, 3277 positives, sort": lambda: average_precision(32768, 3277, algorithm="sort"),
    "AP 1e6, 1e4 positives": lambda: average_precision(1_000_000, 10_000),
    "AP logistic 4096, 410": lambda: average_precision(4096, 410, surrogate="logistic"),
    **{
        f"pairs {s} {n}, {a}": lambda s=s, n=n, a=a: pairs(s, n, a)  # type: ignore[misc]
        for s, n, a in (
            ("squared_hinge", 4096, "direct"), ("squared_hinge", 4096, "sort"),
            ("squared_hinge", 32768, "direct"), ("squared_hinge", 32768, "sort"),
            ("squared_hinge", 1_000_000, "sort"), ("logistic", 4096, "direct"),
            ("logistic", 4096, "smooth"), ("logistic", 32768, "direct"),
            ("sigmoid", 32768, "direct"), ("logistic", 32768, "smooth"),
            ("logistic", 1_000_000, "smooth"), ("sigmoid", 1_000_000, "smooth"),
        )
    },
    **{
        f"pairs logistic 1000000, smooth, {kind}": lambda kind=kind: hard_pairs(kind)  # type: ignore[misc]
        for kind in ("tied", "scale 400")
    },
    **{
        f"log sums {s} {n}, {a}": lambda s=s, n=n, a=a: log_sums(s, n, a)  # type: ignore[misc]
        for s, n, a in (
            ("squared_hinge", 4096, "direct"), ("squared_hinge", 4096, "smooth"),
            ("squared_hinge", 32768, "smooth"), ("hinge", 32768, "sort"),
            ("logistic", 32768, "sort"),
        )
    },
    "state 4096 of 1e6": lambda: moving_average(1_000_000, 4096),
    "state 1e6 of 1e7": lambda: moving_average(10_000_000, 1_000_000),
    **{
        f"threshold {r}x{n}, {m}": lambda r=r, n=n, k=k, m=m: threshold(r, n, k, m)  # type: ignore[misc]
        for r, n, k in ((64, 8192, 100), (256, 262144, 1000), (1, 100_000_000, 1000))
        for m in ("exact", "smooth", "torch.topk", "kthvalue")
        if n < 1e8 or m != "kthvalue"  # minutes
    },
    "SONG 256x310": lambda: ranking(256, 310),
    "SONG 256x1010": lambda: ranking(256, 1010),
    "K-SONG 256x1010": lambda: ranking(256, 1010, top_k=10),
    **{
        f"{n} {m} {b}": lambda n=n, m=m, b=b: partial_auc(n, b, mode=m)  # type: ignore[misc]
        for n, m, b in (
            ("PartialAUCLoss", "kl", 512), ("PartialAUCLoss", "kl", 4096),
            ("PartialAUCLoss", "cvar", 4096), ("PartialAUCLoss", "exact", 4096),
            ("TwoWayPartialAUCLoss", "kl", 4096), ("TwoWayPartialAUCLoss", "cvar", 4096),
        )
    },
    **{
        f"{n} {q}x{s}": lambda n=n, q=q, s=s: listwise(n, q, s)  # type: ignore[misc]
        for n, q, s in (
            ("RankNetLoss", 256, 310), ("LambdaRankLoss", 256, 310), ("ListNetLoss", 256, 310),
            ("ListMLELoss", 256, 310), ("ApproxNDCGLoss", 256, 310), ("NeuralNDCGLoss", 256, 310),
            ("RankNetLoss", 2, 9000), ("ApproxNDCGLoss", 2, 9000), ("SmoothAPLoss", 2, 9000),
            ("LambdaRankLoss", 2, 9000), ("LambdaRankLoss", 256, 1010),
            ("LambdaRankLoss", 256, 1030),
        )
    },
    "AUCMarginLoss 4096": lambda: (score_loss_stateless(xr.AUCMarginLoss(), 4096), Work(64e3)),
    "FocalLoss 4096": lambda: (score_loss_stateless(xr.FocalLoss(), 4096), Work(64e3)),
    **{
        f"{n} {b}x{d} {t}": lambda n=n, b=b, d=d, t=t, k=k: contrastive(n, b, d, t, k)  # type: ignore[misc]
        for n, b, d, t, k in (
            ("GlobalContrastiveLoss", 256, 128, HALF, 4), ("NTXentLoss", 256, 128, HALF, 4),
            ("CLIPLoss", 256, 128, HALF, 2), ("GlobalContrastiveLoss", 4096, 512, HALF, 4),
            ("GlobalContrastiveLoss", 4096, 256, FLOAT, 4), ("CLIPLoss", 4096, 512, HALF, 2),
            ("BimodalGlobalContrastiveLoss", 4096, 512, HALF, 2),
            ("BimodalGlobalContrastiveLoss", 32768, 768, HALF, 2),
        )
    },
}  # fmt: skip


def score_loss_stateless(loss: torch.nn.Module, size: int) -> Step:
    labels = (random(size, seed=1) > 1).float()
    module = loss.cuda()
    return differentiated(lambda scores: module(scores, labels), random(size))


def measure_rates() -> dict[str, float]:
    """What this card does at most: bytes, float32 slots and products a millisecond."""
    source = random(1 << 28)
    target = torch.empty_like(source)
    rates = {"bytes": 8.0 * source.numel() / milliseconds(lambda: target.copy_(source))}
    for name, dtype in (("flops32", FLOAT), ("flops16", HALF)):
        a, b = random(8192, 8192, dtype=dtype), random(8192, 8192, seed=1, dtype=dtype)
        rates[name] = 2.0 * 8192**3 / milliseconds(lambda a=a, b=b: a @ b)  # type: ignore[misc]
    return rates | {"lanes": rates["flops32"] / 2}


def replayed(step: Step) -> float:
    """Milliseconds of a step in a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    def replays() -> None:
        for _ in range(REPLAYS):
            graph.replay()

    return milliseconds(replays) / REPLAYS


def kernels(step: Step) -> tuple[int, list[str]]:
    """How many kernels and copies a step runs, and those that took the most time."""
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        step()
        torch.cuda.synchronize()
    rows = [row for row in found.key_averages() if row.device_type == DeviceType.CUDA]
    rows.sort(key=lambda row: -row.self_device_time_total)
    shown = [
        f"{row.self_device_time_total:.1f} us x{row.count} {short(row.key)}"
        for row in rows[:KERNELS_SHOWN]
    ]
    return sum(row.count for row in rows), shown


def short(kernel: str) -> str:
    for noise in ("void ", "xrisk::", "cuda::", "(anonymous namespace)::"):
        kernel = kernel.replace(noise, "")
    return kernel.split("(")[0][:90]


def measure(name: str, rates: dict[str, float], times_alone: bool) -> dict[str, Any]:
    step, work = CASES[name]()
    for _ in range(3):
        step()
    found: dict[str, Any] = {"case": name, "ms": round(milliseconds(step), 4)}
    try:
        found["graph_ms"] = round(replayed(step), 4)
    except RuntimeError as error:
        torch.cuda.synchronize()
        found["graph"] = str(error).splitlines()[0]
    least = {kind: amount / rates[kind] for kind, amount in work._asdict().items()}
    bound = max(least, key=lambda kind: least[kind])
    best = found.get("graph_ms", found["ms"])
    found |= {"limit_ms": round(least[bound], 5), "bound": bound}
    found["fraction"] = round(least[bound] / best, 3)
    if not times_alone:
        found["launches"], found["kernels"] = kernels(step)
    return found


def main(arguments: list[str]) -> int:
    times_alone = arguments[:1] == ["--times"]
    names = arguments[times_alone:]
    if not torch.cuda.is_available():
        raise SystemExit("gpu_kernels: no GPU is visible to torch; nothing was run")
    rates = measure_rates()
    print(json.dumps({"gpu": torch.cuda.get_device_name(), "rates": rates}), flush=True)
    chosen = [name for name in CASES if not names or any(part in name for part in names)]
    failed = 0
    for place, name in enumerate(chosen):
        try:
            found = measure(name, rates, times_alone)
        except Exception as error:  # a case that fails must not hide the others
            failed = 1
            found = {"case": name, "error": f"{type(error).__name__}: {error}"[:500]}
        print(json.dumps(found), flush=True)
        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except RuntimeError:  # no call works after a bad access: the rest in a fresh process
            if chosen[place + 1 :]:
                os.execv(sys.executable, [*COMMAND, *arguments[:times_alone], *chosen[place + 1 :]])
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
