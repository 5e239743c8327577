"""The lock files fit pyproject.toml, and the source distribution holds what its tests need."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PYTHONS = ("3.10.13", "3.11.7", "3.12.1", "3.13.0")
PLATFORMS = (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"))
MACHINES = [
    {
        "python_version": version.rpartition(".")[0],
        "python_full_version": version,
        "sys_platform": system,
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
    }
    for version in PYTHONS
    for system, machine in PLATFORMS
]


def requirements(name: str) -> list[Requirement]:
    """The lines of a lock file."""
    lines = (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def pins(name: str, machine: dict[str, str]) -> dict[str, str]:
    """Package -> version that a lock file installs on a machine."""
    pinned: dict[str, str] = {}
    for line in requirements(name):
        if line.marker is None or line.marker.evaluate(dict(machine)):
            assert line.name not in pinned, f"{name} pins {line.name} twice on {machine}"
            pinned[line.name] = next(iter(line.specifier)).version
    return pinned


def direct(extras: tuple[str, ...] = ()) -> list[Requirement]:
    """What pyproject.toml asks for, with extras of extras, without torch."""
    lines = [Requirement(line) for line in PROJECT["dependencies"]]
    for extra in extras:
        for requirement in map(Requirement, PROJECT["optional-dependencies"][extra]):
            if requirement.name == PROJECT["name"]:
                lines += direct(tuple(requirement.extras))
            else:
                lines.append(requirement)
    return [line for line in lines if line.name != "torch"]


def canonical(name: str) -> str:
    return name.lower().replace("_", "-")


@pytest.mark.parametrize(("lock", "extras"), [("core.txt", ()), ("dev.txt", ("dev",))])
def test_the_lock_pins_what_pyproject_asks_for(lock: str, extras: tuple[str, ...]) -> None:
    for machine in MACHINES:
        pinned = pins(lock, machine)
        for requirement in direct(extras):
            if requirement.marker is not None and not requirement.marker.evaluate(dict(machine)):
                continue
            version = pinned.get(canonical(requirement.name))
            assert version is not None, (
                f"{lock} lacks {requirement.name} on {machine}: run make lock"
            )
            assert requirement.specifier.contains(version), (
                f"{lock}: {requirement.name} {version}: run make lock"
            )


def test_the_tests_run_with_the_versions_that_users_get() -> None:
    for machine in MACHINES:
        core = pins("core.txt", machine)
        dev = pins("dev.txt", machine)
        assert core.items() <= dev.items()


def test_every_line_of_a_lock_is_exact() -> None:
    for name in ("core.txt", "dev.txt", "sglang.txt", "vllm.txt"):
        for line in requirements(name):
            assert [clause.operator for clause in line.specifier] == ["=="], f"{name}: {line}"


BUILD = (
    "import sys; from setuptools.build_meta import build_sdist, build_wheel;"
    "folder = sys.argv[1]; build_sdist(folder); build_wheel(folder)"
)


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution and the wheel, built from a copy of the project."""
    folder = tmp_path_factory.mktemp("distributions")
    source = folder / "source"
    junk = shutil.ignore_patterns(".*", "build", "dist", "runs", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=junk)
    for name in (".dockerignore", ".pre-commit-config.yaml"):
        shutil.copy(ROOT / name, source)
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", BUILD, str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, env=clean)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_source_distribution_holds_its_tests(distributions: Path) -> None:
    with tarfile.open(next(distributions.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    expected = set(tracked.stdout.splitlines()) if tracked.returncode == 0 else {"Makefile"}
    left_out = {name for name in expected - names if not name.startswith((".ci/", ".git"))}
    assert not left_out


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(distributions: Path) -> None:
    with zipfile.ZipFile(next(distributions.glob("*.whl"))) as archive:
        names = set(archive.namelist())
    folders = {name.split("/")[0] for name in names}
    version = PROJECT["version"]
    assert folders == {"creditdecoding", f"creditdecoding-{version}.dist-info"}
    junk = re.compile(r"(^|/)(tests|test_[^/]*|__pycache__|[^/]*\.egg-info)(/|$)")
    assert not list(filter(junk.search, names))
    package = ROOT / "creditdecoding"
    files = {str(path.relative_to(ROOT)) for path in package.rglob("*") if path.is_file()}
    expected = {name for name in files if "__pycache__" not in name}
    assert not expected - names, "add the files to package-data in pyproject.toml"
    assert "creditdecoding/py.typed" in names


@pytest.mark.slow
def test_an_index_would_take_the_distributions(distributions: Path) -> None:
    pytest.importorskip("twine")
    archives = [str(path) for path in distributions.iterdir() if path.is_file()]
    command = [sys.executable, "-m", "twine", "check", "--strict", *archives]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_versions_that_are_written_twice_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"]
    torch = re.search(r"^TORCH \?= (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert torch is not None
    assert f"ARG TORCH={torch[1]}\n" in (ROOT / "Dockerfile").read_text()
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_metadata_says_what_an_index_shows() -> None:
    assert set(PROJECT["urls"]) >= {"Documentation", "Repository", "Issues", "Changelog"}
    supported = {f"Programming Language :: Python :: {version[:4]}" for version in PYTHONS}
    assert supported <= set(PROJECT["classifiers"])
    assert PROJECT["license"] == "Apache-2.0"
