"""What is published works where nothing else is: the wheel, the sdist, and the files to deploy it with."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import mail_proxy
from mail_proxy.runtime.settings import names
from tests.docs.pages import ROOT
from tests.support.instance import clean_environment

BIN = Path(sys.executable).parent
DEPLOY = ROOT / "deploy"


def run(*command: str | Path, cwd: Path = ROOT, **variables: str) -> str:
    """Run a command that has to end well; return what it says."""
    environment = {**clean_environment(), **variables}
    environment.pop("PYTHONPATH", None)
    words = [str(each) for each in command]
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def build(source: Path, target: str, folder: Path) -> Path:
    """Build a distribution and return its file."""
    run(sys.executable, "-m", "hatchling", "build", "-t", target, "-d", folder, cwd=source)
    (file,) = folder.glob("*.whl" if target == "wheel" else "*.tar.gz")
    return file


def kept(folder: Path) -> set[str]:
    """Return the files that git keeps below a folder."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "--", folder, cwd=ROOT)
    return {line for line in listed.splitlines() if (ROOT / line).is_file()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, and with what it needs from the one that the tests run in; returns its `bin`."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    where = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    # Lines of a .pth add folders, whose own .pth files are not read: the editable installation is not there.
    needs = Path(run(sys.executable, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (where / "needs.pth").write_text(f"{needs}\n")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    return folder / "bin"


def test_the_wheel_has_every_file_of_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if name.startswith("mail_proxy/")}
    assert names == {name.removeprefix("src/") for name in kept(ROOT / "src" / "mail_proxy")}
    assert "mail_proxy/py.typed" in names


def test_the_wheel_says_what_it_is_and_what_it_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        text = archive.read(metadata).decode()
        assert any(name.endswith("/licenses/LICENSE") for name in archive.namelist())
    assert re.search(rf"^Version: {re.escape(mail_proxy.__version__)}$", text, re.MULTILINE)
    assert "Requires-Python: >=3.10" in text
    assert "License-Expression: Apache-2.0" in text
    assert {"postgresql", "large-files", "s3", "gcs", "azure"} <= set(
        re.findall(r"^Provides-Extra: (\S+)$", text, re.MULTILINE)
    )


def test_what_an_index_shows_of_the_wheel_has_no_link_that_leads_nowhere_there(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        shown = archive.read(metadata).decode().partition("\n\n")[2]
    assert "A mail proxy for applications" in shown
    assert re.findall(r"\]\((?!https:)[^)]*\)", shown) == []


def test_every_module_of_the_wheel_can_be_imported(installed: Path) -> None:
    program = (
        "import importlib, pkgutil, mail_proxy\n"
        "names = [m.name for m in pkgutil.walk_packages(mail_proxy.__path__, 'mail_proxy.')"
        " if '.migrations' not in m.name]\n"
        "for name in names: importlib.import_module(name)\n"
        "print(len(names), mail_proxy.__file__)"
    )
    count, file = run(installed / "python", "-I", "-c", program).split()
    assert int(count) > 200
    assert str(installed.parent) in file


def test_the_command_of_the_wheel_does_the_main_job(installed: Path, tmp_path: Path) -> None:
    assert mail_proxy.__version__ in run(installed / "mail-proxy", "--version", cwd=tmp_path)
    assert "sent" in run(installed / "mail-proxy", "demo", cwd=tmp_path, HOME=str(tmp_path))


def test_the_sdist_makes_the_same_wheel_and_has_what_it_takes_to_test_it(wheel: Path, tmp_path: Path) -> None:
    sdist = build(ROOT, "sdist", tmp_path)
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    source = tmp_path / sdist.name.removesuffix(".tar.gz")
    for name in ("Makefile", "LICENSE", "tests/conftest.py", "bench/__main__.py", "deploy/docker/Dockerfile"):
        assert (source / name).is_file(), name
    run(sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", cwd=source)
    assert (source / "build" / "site" / "index.html").is_file()
    other = build(source, "wheel", tmp_path / "other")
    contents = []
    for file in (wheel, other):
        with zipfile.ZipFile(file) as archive:
            contents.append({name: archive.read(name) for name in archive.namelist() if not name.endswith("RECORD")})
    assert contents[0] == contents[1]


# The files to deploy it with


def test_the_dockerfile_has_nothing_to_complain_of() -> None:
    run(BIN / "hadolint", DEPLOY / "docker" / "Dockerfile")


def test_what_the_image_is_made_of_is_enough_to_install_it(tmp_path: Path) -> None:
    """Follow the COPY lines of the Dockerfile in an empty folder, and build from there."""
    text = (DEPLOY / "docker" / "Dockerfile").read_text(encoding="utf-8")
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    sources: list[str] = []
    for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE):
        sources += line.split()[:-1]
    assert set(sources) == allowed
    for name in sources:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    assert build(tmp_path, "wheel", tmp_path / "dist").is_file()


def test_the_image_runs_what_the_health_check_asks(installed: Path, tmp_path: Path) -> None:
    text = (DEPLOY / "docker" / "Dockerfile").read_text(encoding="utf-8")
    (check,) = re.findall(r"HEALTHCHECK .*\\\n\s+CMD (\[.*\])", text)
    _python, *arguments = json.loads(check)
    settings = dict(re.findall(r"(GMP_\w+)=(\S+)", text)) | {
        "GMP_DATA_DIR": str(tmp_path),
        "GMP_HOST": "127.0.0.1",
        "GMP_PORT": "0",
        "GMP_API_TOKEN": "token",
    }
    environment = {**clean_environment(), **settings}
    command = [str(installed / "mail-proxy"), "serve"]
    with subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as service:
        try:
            assert service.stdout is not None
            line = next(json.loads(line) for line in service.stdout if '"serving"' in line)
            port = line["address"].rpartition(":")[2]
            run(installed / "python", *arguments, cwd=tmp_path, GMP_PORT=port)
        finally:
            service.terminate()
            service.communicate(timeout=60)  # what it says at its end has to go somewhere
    assert service.returncode == 0
    refused = subprocess.run(
        [str(installed / "python"), *arguments], env={**environment, "GMP_PORT": port}, check=False, capture_output=True
    )
    assert refused.returncode != 0


def test_compose_and_kubernetes_files_are_such() -> None:
    run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", DEPLOY / "docker" / "compose.yaml")
    run(BIN / "kubernetes-validate", "--strict", DEPLOY / "kubernetes" / "mail-proxy.yaml")


def test_the_unit_is_one_and_lets_the_service_do_little(tmp_path: Path) -> None:
    unit = (DEPLOY / "systemd" / "mail-proxy.service").read_text(encoding="utf-8")
    here = tmp_path / "mail-proxy.service"
    here.write_text(unit.replace("/opt/mail-proxy/bin/mail-proxy", str(BIN / "mail-proxy")))
    assert "mail-proxy.service:" not in run(_analyze(), "verify", here)
    said = run(_analyze(), "security", "--offline=true", "--no-pager", here)
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert exposure is not None, said
    assert float(exposure.group(1)) <= 2.0


def _analyze() -> Path:
    folder = Path(sys.prefix) / "operators"
    path = folder / "systemd-analyze"
    assert path.exists(), (folder / "why-not").read_text() if (folder / "why-not").exists() else f"no {path}"
    return path


@pytest.mark.parametrize(
    "file", ["docker/Dockerfile", "docker/compose.yaml", "systemd/mail-proxy.service", "kubernetes/mail-proxy.yaml"]
)
def test_every_setting_that_is_named_exists(file: str) -> None:
    known = set(names())
    assert set(re.findall(r"GMP_[A-Z_]+", (DEPLOY / file).read_text(encoding="utf-8"))) <= known


def test_every_time_to_stop_covers_what_the_service_takes() -> None:
    grace = 30 + 10
    texts = {
        name: (DEPLOY / name).read_text()
        for name in ("docker/compose.yaml", "systemd/mail-proxy.service", "kubernetes/mail-proxy.yaml")
    }
    assert int(re.findall(r"stop_grace_period: (\d+)s", texts["docker/compose.yaml"])[0]) > grace
    assert int(re.findall(r"TimeoutStopSec=(\d+)", texts["systemd/mail-proxy.service"])[0]) > grace
    before = int(re.findall(r'\["sleep", "(\d+)"\]', texts["kubernetes/mail-proxy.yaml"])[0])
    assert (
        int(re.findall(r"terminationGracePeriodSeconds: (\d+)", texts["kubernetes/mail-proxy.yaml"])[0])
        > grace + before
    )
