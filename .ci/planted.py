#!/usr/bin/env python3
"""Do the fast tests bite? Plants each bug of planted_bugs.py in a copy of the sources, builds the
test that should see it, and expects that test to fail. Exit status 1 if one passes, if a test fails
without a bug, or if a bug cannot be planted or compiled.

    .ci/planted.py [WORD ...]     all bugs, or those that have one of the words in their name

Compiles at -O1 and the baseline SIMD variant alone: the kernels are the same source for all. After
each bug the build folder is put back, so that a bug costs what includes its file and no more. The
CUDA kernels run on the host, and are left out where the CUDA toolkit's headers are missing.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from planted_bugs import BUGS, CUDA_SOURCES, Bug

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build/planted"
TREE = WORK / "tree"
JOBS = os.environ.get("JOBS") or str(os.cpu_count())
LONGEST = 180  # seconds of a test: a bug may also make it hang


def is_cuda(bug: Bug) -> bool:
    return bug.test.startswith("test_")


def run(*command: object) -> tuple[int, str]:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def must(*command: object) -> None:
    status, output = run(*command)
    if status:
        sys.exit(f"{output}\nfailed, without a bug: {' '.join(map(str, command))}")


def copy_sources(cuda_tests: set[str]) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "csrc", "CMakeLists.txt"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():  # neither deleted nor a submodule
            (TREE / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, TREE / name)
    wanted = {*CUDA_SOURCES, *(f"csrc/tests/cuda/{test}.cu" for test in cuda_tests)}
    sources = TREE / "csrc/sources.txt"
    lines = sources.read_text().splitlines()
    kept = [x for x in lines if not x.startswith("cuda") or x.split()[1] in wanted]
    sources.write_text("\n".join(kept) + "\n")


class Build:
    """A build folder without a bug, that every bug starts from."""

    def __init__(self, name: str, options: list[str], tests: set[str]) -> None:
        self.folder, self.clean = WORK / name, WORK / f"{name}.clean"
        must("cmake", "-S", TREE, "-B", self.folder, "-G", "Ninja", *options)
        status, output = self.build(*tests)
        if status:
            sys.exit(f"{output}\n{name} does not compile, without a bug")
        for test in sorted(tests):
            passed, output = self.passes(test)
            if not passed:
                sys.exit(f"{output}\n{test} fails, without a bug")
        must("cp", "-a", self.folder, self.clean)

    def build(self, *tests: str) -> tuple[int, str]:
        targets = [test if test.startswith("test_") else f"test_{test}" for test in tests]
        return run("cmake", "--build", self.folder, "-j", JOBS, "--target", *targets)

    def passes(self, test: str) -> tuple[bool, str]:
        ctest = ("ctest", "--test-dir", self.folder, "--timeout", LONGEST, "--no-tests=error")
        status, output = run(*ctest, "--output-on-failure", "-R", f"^{test}$")
        if "No tests were found" in output:
            sys.exit(f"there is no test {test}")
        return status == 0, output

    def plant(self, bug: Bug) -> bool:
        """Whether the test failed, with the bug."""
        path = TREE / bug.path
        text, kept = path.read_text(), path.stat()
        try:
            path.write_text(text.replace(bug.old, bug.new))
            status, output = self.build(bug.test)
            if status:
                sys.exit(f"{output}\ndoes not compile: {bug.what}")
            return not self.passes(bug.test)[0]
        finally:  # as it was, times included: nothing is compiled again for it
            path.write_text(text)
            os.utime(path, ns=(kept.st_atime_ns, kept.st_mtime_ns))
            shutil.rmtree(self.folder)
            must("cp", "-a", self.clean, self.folder)


def has_cuda_headers() -> bool:
    homes = [os.environ.get("CUDA_HOME", ""), "/usr/local/cuda"]
    nvcc = shutil.which("nvcc")
    found = any(Path(home, "include/cuda_runtime_api.h").exists() for home in homes if home)
    return found or nvcc is not None


def main(words: list[str]) -> int:
    bugs = [b for b in BUGS if not words or any(word in b.what for word in words)]
    if not bugs:
        sys.exit(f"no bug has one of {words} in its name")
    for bug in bugs:
        count = (ROOT / bug.path).read_text().count(bug.old)
        if count != 1:
            sys.exit(f"{bug.path} has {count} times what is to be replaced: {bug.what}")
    if not has_cuda_headers():
        print("no headers of the CUDA toolkit: the bugs in CUDA kernels are NOT planted")
        bugs = [bug for bug in bugs if not is_cuda(bug)]
    tests = {bug.test for bug in bugs if not is_cuda(bug)}
    cuda_tests = {bug.test for bug in bugs if is_cuda(bug)}

    begin = time.monotonic()
    shutil.rmtree(WORK, ignore_errors=True)
    copy_sources(cuda_tests)
    builds = {}
    if tests:
        flags = "-DCMAKE_CXX_FLAGS=-O1 -DXRISK_BASELINE_ONLY"
        builds[False] = Build("cpp", ["-DCMAKE_BUILD_TYPE=None", flags], tests)
    if cuda_tests:
        builds[True] = Build("simt", ["-DXRISK_SIMT=plain", "-DXRISK_LINES=OFF"], cuda_tests)
    print(f"{len(tests | cuda_tests)} tests pass without a bug: {time.monotonic() - begin:.0f} s")

    missed = 0
    width = max(len(bug.what) for bug in bugs)
    for bug in bugs:
        begin = time.monotonic()
        caught = builds[is_cuda(bug)].plant(bug)
        missed += not caught
        seconds = time.monotonic() - begin
        verdict = "caught" if caught else "MISSED"
        print(f"{bug.what:{width}}  {bug.test:19}  {verdict}  {seconds:4.0f} s", flush=True)
    shutil.rmtree(WORK)
    print(f"{len(bugs) - missed} of {len(bugs)} planted bugs caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
