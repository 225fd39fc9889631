"""``python -m xrisk_ext info | demo | bench``."""

import argparse
import platform
import sys

import torch

from xrisk_ext import _C


def info() -> int:
    """Prints what was built and what it runs on."""
    build = dict(_C.build_info())
    rows = {
        "xrisk_ext": build["version"],
        "torch": f"{torch.__version__} (built for {build['torch']})",
        "compiler": build["compiler"],
        "SIMD built": ", ".join(build["simd_built"]),
        "SIMD in use": build["simd"],
        "bfloat16 products": f"{build['bfloat16']} of {', '.join(build['bfloat16_built'])}",
        "CUDA kernels": ", ".join(build["cuda_archs"]) if build["cuda"] else "not built",
        "CUDA devices": str(torch.cuda.device_count()) if torch.cuda.is_available() else "none",
        "active backends": "CPU, CUDA" if build["cuda"] and torch.cuda.is_available() else "CPU",
        "threads": str(torch.get_num_threads()),
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
    }
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:<{width}}  {value}")
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m xrisk_ext", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="what was built, and what it runs on")
    commands.add_parser(
        "demo", help="train with our AP loss on real data (extra: demo)", add_help=False
    )
    commands.add_parser(
        "bench", help="race against LibAUC and PyTorch (extra: bench)", add_help=False
    )
    known, rest = parser.parse_known_args(argv)
    if known.command == "demo":
        from xrisk_ext.demo import main as demo

        return demo(rest)
    if known.command == "bench":
        from xrisk_ext.bench.cli import main as bench

        return bench(rest)
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return info()


if __name__ == "__main__":
    sys.exit(main())
