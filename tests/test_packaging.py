"""What is shipped, what it costs to import, and that generated files are fresh."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.gen_cli_docs import REFERENCE, reference

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    "edgesdk": ROOT / "edgesdk",
    "edgesdk_backends": ROOT / "backends" / "edgesdk_backends",
    "edgesdk_profiles": ROOT / "profiles" / "edgesdk_profiles",
}
ENGINES = ("onnxruntime", "openvino", "nncf", "torch", "ai_edge_litert", "tensorrt")
HEAVY = (*ENGINES, "onnx", "onnx_ir", "typer", "rich", "sympy")


def _python(code: str) -> str:
    """Output of a fresh interpreter; its error output when it fails."""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    (built,) = folder.glob("*.whl")
    return zipfile.ZipFile(built)


def test_the_wheel_holds_the_three_packages_whole_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    expected = {
        f"{package}/{path.relative_to(folder)}"
        for package, folder in PACKAGES.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert shipped == expected


def test_the_wheel_says_its_licence_and_registers_backends_profiles_and_the_command(
    wheel: zipfile.ZipFile,
) -> None:
    info = {Path(name).name: name for name in wheel.namelist() if ".dist-info/" in name}
    assert "License-Expression: Apache-2.0" in wheel.read(info["METADATA"]).decode()
    assert "Apache License" in wheel.read(info["LICENSE"]).decode()
    entries = wheel.read(info["entry_points.txt"]).decode()
    for line in ("[console_scripts]", "[edgesdk.backends]", "[edgesdk.profiles]"):
        assert line in entries


def test_the_core_needs_no_engine_to_be_installed() -> None:
    code = f"""
import importlib, pkgutil, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {ENGINES!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import edgesdk
for module in pkgutil.walk_packages(edgesdk.__path__, "edgesdk."):
    # The conformance suites are pytest classes, __main__ runs the command, and training is PyTorch.
    apart = module.name.startswith(("edgesdk.testing", "edgesdk.train."))
    if not apart and not module.name.endswith("__main__"):
        importlib.import_module(module.name)
        print(module.name)
"""
    assert {"edgesdk.runtime", "edgesdk.train"} <= set(_python(code).split())


@pytest.mark.parametrize("module", ["edgesdk", "edgesdk.runtime", "edgesdk.backend"])
def test_what_a_device_imports_brings_in_numpy_at_most(module: str) -> None:
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    loaded = set(_python(code).split())
    assert not loaded & set(HEAVY)


def test_help_comes_without_loading_an_engine_or_onnx() -> None:
    code = f"""
import sys
from edgesdk.cli import main
sys.argv = ["edgesdk", "deploy", "--help"]
try:
    main()
except SystemExit as end:
    assert end.code == 0, end.code
print("LOADED", *({{name.split(".")[0] for name in sys.modules}} & {set(HEAVY)!r}))
"""
    loaded = _python(code).partition("LOADED")[2].split()
    assert set(loaded) <= {"typer", "rich"}


def test_the_command_reference_is_what_the_program_says() -> None:
    assert REFERENCE.read_text(encoding="utf-8") == reference(), "stale: run `make docs`"


def test_everything_that_gets_installed_is_pinned_at_the_version_tested() -> None:
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    installed = _installed(_named_in_pyproject())
    assert {"numpy", "onnx", "onnxruntime", "openvino", "pytest", "ruff"} <= installed.keys()
    assert {name: pins.get(name) for name in installed} == installed


def _named_in_pyproject() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    texts = list(project["project"]["dependencies"])
    for extra in project["project"]["optional-dependencies"].values():
        texts += extra
    for group in project["dependency-groups"].values():
        texts += [entry for entry in group if isinstance(entry, str)]
    found = [Requirement(text) for text in texts]
    return [
        requirement
        for requirement in found
        if requirement.name != "edgesdk"
        and (requirement.marker is None or requirement.marker.evaluate())
    ]


def _installed(wanted: list[Requirement]) -> dict[str, str]:
    """Versions of these packages and all that they need in this environment, by canonical name."""
    versions: dict[str, str] = {}
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        if name in versions:
            continue
        try:
            found = distribution(name)
        except PackageNotFoundError:
            pytest.fail(f"{requirement} is not installed here; run `make setup`")
        versions[name] = found.version.partition("+")[0]  # a build of that version, as 2.13.0+cpu
        needs = [Requirement(text) for text in found.requires or ()]
        extras = requirement.extras or {""}
        wanted += [
            need
            for need in needs
            if need.marker is None or any(need.marker.evaluate({"extra": e}) for e in extras)
            # What a build of PyTorch for GPUs brings is that build's affair.
            if name != "torch" or not re.match("nvidia|cuda|triton", need.name)
        ]
    return versions
