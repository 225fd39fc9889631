"""``python -m xrisk_ext demo``: AP against cross entropy on real imbalanced data, NDCG against the
listwise losses on images retrieved for an image, SogCLR against SimCLR on images without labels.
"""

import argparse
import os
import time
from pathlib import Path

import torch

DESCRIPTION = """
Trains the same small network with cross entropy, with xrisk_ext's average precision loss and,
where it is installed, with LibAUC's, on imbalanced tasks made from data that ships with
scikit-learn; then a small encoder with ListNet, ApproxNDCG, SONG and K-SONG on a ranking task, and
one with SimCLR and SogCLR without labels; and prints whatever comes out.
"""

PROTOCOL = """\
A network with {hidden} hidden units; {steps} steps of {batch} samples, {positives} of them
positive; AdamW, learning rate decaying to 0. Learning rate and weight decay are chosen on
validation data of the first {tuning_seeds} seeds, from the same {trials} trials for every method.
Per seed, all methods share split, batches and first weights. The AP losses take {warm_up:.0%} of
the steps as cross entropy, then sigmoid scores, margin {margin}, gamma {gamma}. Positives are
thinned to 4% in training; those taken out go to validation and test, where the AUPRC would be too
noisy otherwise. The tasks are not a random sample: four were picked, on other seeds, as hard for
cross entropy and showing a difference; the last is an easy one, with little to win."""

NOTES = """\
Sizes: positive + negative. After AUPRC: standard deviation over {seeds} seed(s); after a
difference: standard error of the paired mean. Loss step: forward and backward of the loss alone,
median, {threads} thread(s). Peak memory: the tensors it holds at a time, by torch.profiler, which
does not see scratch memory inside of kernels (ours: a block per thread, linear in the batch)."""

LARGE_BATCH = 4096


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m xrisk_ext demo", description=DESCRIPTION)
    parser.add_argument("--seeds", type=int, default=12, help="runs per method (default: 12)")
    parser.add_argument("--quick", action="store_true", help="a few steps only, to see it run")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("xrisk_demo.png"),
        help="picture of what came out (default: xrisk_demo.png)",
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="of PyTorch; for so small a network 1 is fastest"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        help="parts of it that run at a time, in processes (default: one per CPU)",
    )
    arguments = parser.parse_args(argv)
    if min(arguments.seeds, arguments.threads, arguments.jobs) < 1:
        parser.error("--seeds, --threads and --jobs must be at least 1")
    return arguments


def main(argv: list[str] | None = None) -> int:
    arguments = _parse(argv)
    try:
        import matplotlib  # noqa: F401
        import sklearn  # noqa: F401
        import tqdm  # noqa: F401
    except ModuleNotFoundError as error:
        print(f"The demo needs {error.name}: pip install scikit-learn matplotlib tqdm")
        return 1
    threads = torch.get_num_threads()
    torch.set_num_threads(arguments.threads)
    try:
        _run(arguments)
    finally:
        torch.set_num_threads(threads)
    return 0


def _run(arguments: argparse.Namespace) -> None:
    from xrisk_ext.demo import contrastive, data, methods, parts, ranking, report, training

    start = time.perf_counter()
    plan = training.make_plan(arguments.seeds, arguments.quick)
    compared, left_out = methods.available_methods()
    print(
        PROTOCOL.format(
            hidden=training.HIDDEN,
            steps=plan.steps,
            batch=training.BATCH,
            positives=training.BATCH_POSITIVES,
            trials=len(plan.trials),
            tuning_seeds=plan.tuning_seeds,
            warm_up=training.WARM_UP,
            margin=methods.MARGIN,
            gamma=methods.GAMMA,
        )
    )
    ranking_plan = ranking.make_plan(arguments.seeds, arguments.quick)
    print(
        ranking.PROTOCOL.format(
            items=ranking.ITEMS,
            steps=ranking_plan.steps,
            batch=ranking.BATCH,
            tuning_seeds=ranking_plan.tuning_seeds,
            trials=len(ranking_plan.trials),
            ks=", ".join(map(str, ranking_plan.ks)),
        )
    )
    contrastive_plan = contrastive.make_plan(arguments.seeds, arguments.quick)
    print(
        contrastive.PROTOCOL.format(
            images=contrastive.IMAGES,
            steps=contrastive_plan.steps,
            batch=contrastive.BATCH,
            tuning_seeds=contrastive_plan.tuning_seeds,
            temperatures=len(contrastive_plan.temperatures),
            labelled=contrastive.LABELLED,
        )
    )
    if left_out:
        print(left_out)

    names = [method.name for method in compared]
    work = [
        parts.Job("ranking", ranking.compare, (ranking_plan,), ranking_plan.runs()),
        parts.Job("contrastive", contrastive.compare, (contrastive_plan,), contrastive_plan.runs()),
        *(
            parts.Job(task.name, parts.train_task, (k, names, plan), len(names) * plan.runs())
            for k, task in enumerate(data.TASKS)
        ),
    ]
    ranked, embedded, *trained = parts.run(work, arguments.jobs, arguments.threads)
    results = [
        report.TaskResult(task, *outcome) for task, outcome in zip(data.TASKS, trained, strict=True)
    ]

    repeats = 5 if arguments.quick else 15
    costs = {
        batch: {m.name: methods.step_cost(m, batch, batch // 8, repeats) for m in compared}
        for batch in (training.BATCH, LARGE_BATCH)
    }
    print(f"\n{report.results_table(results, costs[training.BATCH])}\n")
    print(NOTES.format(seeds=plan.seeds, threads=arguments.threads))
    print(f"\nThe loss step alone, one sample in 8 positive:\n{report.cost_table(costs)}\n")
    print(report.verdict(results))
    heading = f"Digit images for a digit image, {ranking_plan.seeds} seed(s):"
    print(f"\n{heading}\n{report.aligned(ranking.table(ranked))}")
    heading = f"Digit images without labels, {contrastive_plan.seeds} seed(s):"
    print(f"\n{heading}\n{report.aligned(contrastive.table(embedded))}")

    report.plot_curves(results, ranked, embedded, arguments.output)
    print(f"\nPrecision-recall curves, NDCG and probe accuracy: {arguments.output.resolve()}")
    print(f"{time.perf_counter() - start:.0f} s in all")
