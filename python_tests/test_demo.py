"""The demo runs from end to end, and its table and picture are complete."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")
pytest.importorskip("tqdm")
matplotlib_image = pytest.importorskip("matplotlib.image")

from xrisk_ext.demo import (  # noqa: E402
    contrastive,
    data,
    main,
    methods,
    parts,
    ranking,
    report,
    training,
)


def test_demo_prints_every_task_and_method_and_draws_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "curves.png"
    assert main(["--quick", "--seeds", "1", "--jobs", "1", "--output", str(picture)]) == 0
    output = capsys.readouterr().out

    names = [method.name for method in methods.available_methods()[0]]
    assert methods.CROSS_ENTROPY in names and methods.OURS in names
    lines = output.splitlines()
    for task in data.TASKS:
        (heading,) = (i for i, line in enumerate(lines) if line.startswith(f"{task.name} (train"))
        for line, name in zip(lines[heading + 1 :], names, strict=False):
            assert line.startswith(f"  {name}")
            assert 0.0 < float(line.removeprefix(f"  {name}").split()[0]) <= 1.0
    assert f"of {len(data.TASKS)} tasks" in output
    (heading,) = (i for i, line in enumerate(lines) if line.startswith("Digit images for"))
    for line, name in zip(lines[heading + 2 :], ranking.METHODS, strict=False):
        assert line.startswith(name)
        assert 0.0 < float(line.removeprefix(name).split()[0]) <= 1.0
    (heading,) = (i for i, line in enumerate(lines) if line.startswith("Digit images without"))
    for line, name in zip(lines[heading + 2 :], contrastive.METHODS, strict=False):
        assert line.startswith(name)
        assert 0.0 < float(line.removeprefix(name).split()[0]) <= 1.0
    assert str(picture) in output

    pixels = matplotlib_image.imread(picture)
    assert pixels.shape[0] > 300 and pixels.shape[1] > 300
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 10


def test_a_part_comes_out_the_same_in_a_process() -> None:
    plan = contrastive.make_plan(1, quick=True)
    work = [parts.Job("contrastive", contrastive.compare, (plan,), plan.runs())]
    assert parts.run(work, jobs=1, threads=1) == parts.run(work, jobs=2, threads=1)


@pytest.mark.parametrize("task", data.TASKS, ids=lambda task: task.name)
def test_split_thins_the_train_part_alone(task: data.Task) -> None:
    split = data.split(task, seed=3)
    share = split.train.positives / len(split.train.labels)
    assert 0.02 < share < 0.05
    assert split.train.positives >= training.BATCH_POSITIVES
    assert split.test.positives > 50
    features, _ = task.load()
    parts = (split.train, split.validation, split.test)
    assert sum(len(part.labels) for part in parts) == len(features)


def test_methods_share_batches_with_the_positives_first() -> None:
    train = data.split(data.TASKS[0], seed=0).train
    batches = training.draw_batches(train, steps=30, seed=0)
    assert batches.shape == (30, training.BATCH)
    labels = train.labels[batches.numpy()]
    assert labels[:, : training.BATCH_POSITIVES].all()
    assert not labels[:, training.BATCH_POSITIVES :].any()
    assert batches.equal(training.draw_batches(train, steps=30, seed=0))


def test_paired_counts_and_standard_error() -> None:
    difference = report.paired(np.array([0.5, 0.7, 0.6]), np.array([0.4, 0.4, 0.7]))
    assert difference.mean == pytest.approx(0.1)
    assert difference.error == pytest.approx(0.2 / math.sqrt(3))
    assert (difference.won, difference.seeds) == (2, 3)


def test_grades_of_digits() -> None:
    lists = ranking.split(seed=1)
    assert lists.train.relevance.shape == (ranking.ITEMS, ranking.ITEMS)
    digits = lists.train.relevance == 2.0
    assert digits.diagonal().all()
    assert digits.equal(digits.T)
    for part in (lists.train, lists.validation, lists.test):
        levels = part.relevance.unique().tolist()
        assert levels == [0.0, 1.0, 2.0]
        # a tenth shows the digit, two tenths the digits next to it
        assert 0.07 < float((part.relevance == 2.0).float().mean()) < 0.13
        assert 0.15 < float((part.relevance == 1.0).float().mean()) < 0.25


def test_distorted_images_stay_near_and_repeat_with_the_seed() -> None:
    images = contrastive.split(seed=2).test[:50]
    view = contrastive.distort(images, torch.Generator().manual_seed(1))
    assert view.shape == images.shape
    assert view.equal(contrastive.distort(images, torch.Generator().manual_seed(1)))
    nearest = torch.cdist(view, images).argmin(dim=1)
    # by chance one in 50 would find its own image
    assert (nearest == torch.arange(50)).float().mean() > 0.08
