"""What a user meets who installs: the wheel in a clean environment, and each error promised.

Usage: python test_wheel.py WHEEL, by the interpreter that built it. The environments are made
afresh under build/wheel. torch is linked into them from this interpreter's: the same pins, without
unpacking gigabytes; and nothing else but what torch itself requires, so that a package which came
to need more would be found out.
"""

import json
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "wheel"


def required_by(name: str) -> set[str]:
    """A distribution and all that it requires, as installed here."""
    names: set[str] = set()
    waiting = [name]
    while waiting:
        current = waiting.pop().lower().replace("_", "-")
        try:
            requirements = distribution(current).requires or []
        except PackageNotFoundError:  # for another platform, or an extra
            continue
        if current not in names:
            names.add(current)
            found = (re.match(r"[\w.-]+", r) for r in requirements if "extra ==" not in r)
            waiting += [match.group() for match in found if match]
    return names


class Environment:
    """A virtual environment that holds only what is linked or installed into it."""

    def __init__(self, name: str, *linked: str) -> None:
        self.folder = WORK / name
        venv.create(self.folder, clear=True, with_pip=True)
        self.python = self.folder / "bin" / "python"
        purelib = "import sysconfig; print(sysconfig.get_path('purelib'))"
        self.site = Path(self.run("-c", purelib).stdout.strip())
        for bundled in self.site.glob("setuptools*"):  # which Python 3.10 and 3.11 bring along
            shutil.rmtree(bundled)
        for distribution_name in sorted(set().union(*(required_by(name) for name in linked))):
            self.link(distribution_name)

    def link(self, name: str) -> None:
        files = distribution(name).files or []
        for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            target, link = Path(distribution(name).locate_file(top)), self.site / top
            if target.exists() and not link.exists():
                link.symlink_to(target.resolve())

    def run(self, *arguments: str, ok: bool = True, **variables: str) -> "Outcome":
        """Runs Python there, away from the checkout."""
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(WORK), "XRISK_CUDA": "0", **variables}
        done = subprocess.run(
            [self.python, *arguments], cwd=WORK, env=environment, capture_output=True, text=True
        )
        outcome = Outcome(done.returncode, done.stdout, done.stderr)
        if (done.returncode == 0) != ok:
            sys.exit(f"{arguments} returned {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return outcome


class Outcome:
    def __init__(self, code: int, stdout: str, stderr: str) -> None:
        self.code, self.stdout, self.stderr = code, stdout, stderr

    @property
    def last_line(self) -> str:
        return self.stderr.strip().splitlines()[-1]


def check_contents(wheel: Path) -> None:
    """The package's sources and the extension, and nothing left over from other builds."""
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    sources = {str(p.relative_to(ROOT)) for p in (ROOT / "xrisk_ext").rglob("*.py")}
    expected = sources | {"xrisk_ext/py.typed", "xrisk_ext/_build_config.json"}
    extra, missing = names - expected, expected - names
    assert not missing, f"the wheel lacks {missing}"
    assert len(extra) == 1, f"the wheel has {extra}, expected one extension"
    assert re.fullmatch(r"xrisk_ext/_C\..*\.(so|pyd)", extra.pop())


def check_smoke(wheel: Path) -> Environment:
    clean = Environment("clean", "torch")
    clean.run("-m", "pip", "install", "-q", "--no-index", str(wheel))  # torch satisfies it
    print(clean.run(str(ROOT / ".ci" / "smoke.py"), str(clean.site)).stdout, end="")
    info = clean.run("-m", "xrisk_ext", "info").stdout
    assert "torch" in info and "simd" in info.lower(), info
    return clean


def check_other_torch(clean: Environment) -> None:
    other = WORK / "other_torch" / "xrisk_ext"
    shutil.rmtree(other, ignore_errors=True)
    shutil.copytree(clean.site / "xrisk_ext", other)
    config = other / "_build_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "torch": "1.2.3"}))
    outcome = clean.run("-c", "import xrisk_ext", ok=False, PYTHONPATH=str(other.parent))
    print("other torch:", outcome.last_line)
    assert re.fullmatch(
        r"ImportError: xrisk_ext was built for torch 1\.2\.3, but torch \S+ is running; rebuild "
        r"it .*pip install --no-build-isolation.*",
        outcome.last_line,
    ), outcome.stderr


def check_wrong_variant(clean: Environment) -> None:
    """The build is sound, so nobody is told to rebuild it."""
    outcome = clean.run("-c", "import xrisk_ext", ok=False, XRISK_SIMD="sse9")
    print("wrong variant:", outcome.last_line)
    assert outcome.last_line.startswith("ImportError: XRISK_SIMD: expected baseline, avx2,")
    assert "rebuild" not in outcome.stderr


def check_no_torch() -> None:
    """pip isolates a build by default, so torch is missing there, too: the same setup.py fails."""
    bare = Environment("no_torch", "setuptools")
    install = ("-m", "pip", "install", "--no-build-isolation", "--no-deps", "--no-index")
    outcome = bare.run(*install, str(ROOT), ok=False)
    said = " ".join((outcome.stdout + outcome.stderr).split())
    for part in ("xrisk_ext: torch was not found.", "1. install torch", "--no-build-isolation ."):
        assert part in said, said
    print("no torch:", said[said.index("xrisk_ext: torch") :].split(" [end")[0])


def main() -> None:
    wheel = Path(sys.argv[1]).resolve()
    WORK.mkdir(parents=True, exist_ok=True)
    check_contents(wheel)
    clean = check_smoke(wheel)
    check_other_torch(clean)
    check_wrong_variant(clean)
    check_no_torch()


main()
