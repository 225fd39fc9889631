"""python -m xrisk_ext bench

Fair races of xrisk_ext against its peers: ratio tables with their spread, the float64 error beside
every time, peak memory, and the fraction of what the machine can do at most.

  bench                                   all races; writes cpu.json and cpu.png
                                          Ctrl-C keeps what was raced so far, as cpu-part.json
  bench --quick                           a few cases, short races: noisy, printed only
  bench --op average_precision --peer libauc --peer eager --case B=4096
  bench --op ndcg --name cpu --add        these races anew, the others of cpu.json as they were
  bench --from cpu.json                   print an earlier run again
  bench --compare OLD.json NEW.json       exit status 1 on a regression
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import Any

NEEDED = ("pytest", "pytest_benchmark")


def main(argv: list[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(argv)
    if (options.compare or options.source) and (options.op or options.case):
        parser.error("--op and --case choose what is raced: not with --compare or --from")
    if options.add and options.quick:
        parser.error("--quick is too noisy to --add to a record")
    if options.compare:
        from xrisk_ext.bench import compare

        old, new = options.compare
        return compare.main(old, new, options.tolerance, options.peer)
    return _bench(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m xrisk_ext bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--op", action="append", help="a kind of work; --op, --peer and --case may be repeated"
    )
    parser.add_argument("--peer", action="append", help="race or compare with these only")
    parser.add_argument("--case", action="append", help="a case by its name, B=4096 say")
    parser.add_argument("--quick", action="store_true", help="a few cases, short races: noisy")
    parser.add_argument("--race-seconds", type=_seconds, help="length of one race; default: 8")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--list", action="store_true", help="the cases and peers, nothing is run")
    parser.add_argument(
        "--output",
        type=Path,
        help="folder of the results; default: benchmarks/results in a checkout, else here",
    )
    parser.add_argument(
        "--name",
        help="of the results; default: the device. Part of the races is not recorded "
        "unless --name or --output is given",
    )
    parser.add_argument(
        "--add",
        action="store_true",
        help="keep the races of the earlier results of that name that were not run again; they "
        "must be of this machine and these versions",
    )
    parser.add_argument("--from", dest="source", type=_record, help="a recorded or pytest JSON")
    parser.add_argument("--compare", nargs=2, type=_record, metavar=("OLD", "NEW"))
    parser.add_argument(
        "--tolerance", type=float, default=1.25, help="factor that is not yet a regression"
    )
    return parser


def _seconds(text: str) -> float:
    if not (seconds := float(text)) > 0.0:
        raise argparse.ArgumentTypeError(f"expected more than 0, got {text}")
    return seconds


def _record(path: str) -> dict[str, Any]:
    """A record by its file, so that a wrong one is a fault of the command line."""
    from xrisk_ext.bench import record

    try:
        return record.load(Path(path))
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise argparse.ArgumentTypeError(f"{path} is no record of races") from error


def _bench(options: argparse.Namespace) -> int:
    from xrisk_ext.bench import record, tables
    from xrisk_ext.bench.selection import Selection

    selection = Selection(
        options.op, options.case, options.peer, options.quick, options.race_seconds, options.device
    )
    whole = selection.everything and not options.source
    root = record.checkout()
    folder = options.output or (root / "benchmarks" / "results" if root else Path())
    earlier = None
    if options.add:
        path = folder / f"{options.name or options.device}.json"
        if not path.exists():
            return _fail(f"--add: {path} not found")
        earlier = record.load(path)
        complaint = record.why_not_added_to(earlier)
        if complaint:
            return _fail(f"--add: {complaint}")
    status = 0
    if options.source:
        found = options.source
    else:
        complaint = selection.complaint()
        if complaint:
            return _fail(complaint)
        if options.list:
            return _list(selection)
        missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
        if missing:
            needed = " and ".join(name.replace("_", "-") for name in missing)
            return _fail(f"{needed} not found: install it, or the extra bench of xrisk_ext")
        if options.device == "cuda" and not _has_cuda():
            return _fail("--device cuda: torch sees no CUDA device")
        found, status = record.run(selection)
    print(tables.render(found))

    if earlier:
        found = record.add(earlier, found)
    if options.name or options.output or options.add or whole:
        name = options.name or found.get("name") or options.device
        if status == record.INTERRUPTED and not earlier:
            name += "-part"
        print("wrote", *record.publish(found, name, folder))
    return status


def _list(selection: object) -> int:
    from xrisk_ext.bench.peers import names_of
    from xrisk_ext.bench.selection import Selection

    assert isinstance(selection, Selection)
    chosen = selection.cases()
    for work in dict.fromkeys(case.work for case in chosen):
        print(f"{work}: {', '.join(names_of(work))}")
        for case in chosen:
            if case.work == work:
                print(f"  {case.name}")
    return 0


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _fail(message: str) -> int:
    print(f"python -m xrisk_ext bench: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
