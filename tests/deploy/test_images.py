"""``cluster/deploy/docker``: what the Dockerfile says is sound, and whatever of it needs no Docker is done here."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, files, requires
from pathlib import Path
from shutil import which

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster" / "deploy" / "docker"
PACKAGES = ("mapper", "catalogs", "cluster", "jobs")
FINAL = ("cpu", "cuda", "launcher")


def instructions(text: str) -> list[tuple[str, str]]:
    """What a Dockerfile says, in order: word and the rest of it, continued lines joined."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]


def stages() -> dict[str, list[tuple[str, str]]]:
    """Name of a stage → what is said in it; first of all what it is built on."""
    found: dict[str, list[tuple[str, str]]] = {"": []}
    name = ""
    for word, rest in instructions((FOLDER / "Dockerfile").read_text()):
        if word == "FROM":
            on, _, name = rest.partition(" AS ")
            found[name] = [("FROM", on)]
        else:
            found[name].append((word, rest))
    return found


def lineage(stage: str) -> list[tuple[str, str]]:
    """All that is said in a stage and in those it is built on, the oldest first."""
    said = stages()[stage]
    on = said[0][1]
    return (lineage(on) if on in stages() else []) + said


def commands(stage: str) -> list[str]:
    return [rest for word, rest in lineage(stage) if word == "RUN"]


def variables(stage: str) -> Mapping[str, str]:
    text = " ".join(rest for word, rest in lineage(stage) if word == "ENV")
    return dict(re.findall(r'([A-Za-z_]+)=("[^"]*"|\S+)', text))


# The Dockerfile ------------------------------------------------------------------------------------------------------


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, FOLDER / "Dockerfile"], capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.returncode) == ("", 0)


@pytest.mark.parametrize("stage", FINAL)
def test_what_runs_is_nobody_special_under_an_init_and_says_how_it_is(stage: str) -> None:
    (user,) = [rest for word, rest in stages()[stage] if word == "USER"] or [
        rest for word, rest in lineage(stage) if word == "USER"
    ]
    assert all(int(number) >= 1000 for number in user.split(":"))
    assert lineage(stage)[-1][0] in ("USER", "ENV")  # nothing is run after it
    said = dict(lineage(stage))
    assert "tini" in said["ENTRYPOINT"]
    assert "RESMAP_HEALTH" in said["HEALTHCHECK"]
    assert {"title", "description", "licenses", "source"} == set(re.findall(r"image\.(\w+)=", said["LABEL"]))


@pytest.mark.parametrize("stage", FINAL)
def test_what_runs_can_build_and_install_nothing(stage: str) -> None:
    installed = {name for command in commands(stage) for name in re.findall(r"recommends ([a-z0-9 .-]+?) &&", command)}
    names = {name for line in installed for name in line.split()}
    assert names <= {"libexpat1", "tini", "wget", "openssh-client", "rsync"}
    assert any("pip uninstall" in command for command in commands(stage))
    assert all("rm -rf /var/lib/apt/lists/*" in command for command in commands(stage) if "apt-get" in command)


def test_whatever_it_is_built_on_is_named_by_an_exact_version_that_a_digest_can_be_added_to() -> None:
    given = dict(rest.split("=", 1) for word, rest in stages()[""] if word == "ARG")
    assert set(given) == {"PYTHON_IMAGE", "NODE_IMAGE"}
    assert all(re.fullmatch(r"\w+:\d+\.\d+\.\d+-[a-z-]+", image) for image in given.values())
    roots = {said[0][1] for name, said in stages().items() if name} - set(stages())
    assert roots == {"${PYTHON_IMAGE}", "${NODE_IMAGE}"}
    readme = (FOLDER / "README.md").read_text()
    assert all(f"{name}={image}@sha256:" in readme for name, image in given.items())
    assert all(image.split(":")[1].split("-")[0] in readme for image in given.values())


def test_its_python_is_the_one_of_the_lock() -> None:
    version = dict(rest.split("=", 1) for word, rest in stages()[""] if word == "ARG")["PYTHON_IMAGE"].split(":")[1]
    assert version.startswith(f"{sys.version_info[0]}.{sys.version_info[1]}."), "the lock is of the tests' Python"


def test_a_node_of_the_image_asks_for_a_token() -> None:
    for stage in FINAL:
        assert variables(stage)["RAY_AUTH_MODE"] == "token"
        assert variables(stage)["HOME"] == "/home/resmap"
    for stage in ("cuda", "launcher"):
        assert variables(stage)["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"


def test_every_package_has_the_version_of_the_lock_and_comes_as_a_wheel() -> None:
    fetching = [command for stage in ("wheels", "wheels-launcher") for command in commands(stage)]
    fetched = [command for command in fetching if "-r requirements.txt" in command]
    assert len(fetched) == 3  # the second stage is built on the first
    for command in fetched:
        assert "--only-binary :all:" in command
        assert "-c constraints.txt -c constraints.lock.txt" in command


@pytest.mark.parametrize("stage", ["wheels", "wheels-launcher"])
def test_what_it_asks_pip_for_is_what_the_project_needs_and_the_lock_has_it(stage: str, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    command = [command for command in commands(stage) if "requirements.txt" in command][-1]
    code = re.search(r'python -c "(.*?)" > requirements\.txt', command)
    assert code is not None
    said = subprocess.run(
        [sys.executable, "-c", code.group(1)], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    names = {re.split(r"[\[<>=!~]", line)[0].lower().replace("_", "-") for line in said.stdout.splitlines()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert len(names) == len(project["dependencies"]) + 1 if stage == "wheels" else names == {
        "boto3", "google-api-python-client", "cryptography"
    }  # fmt: skip
    locked = {
        line.split("==")[0].lower().replace("_", "-")
        for file in ("constraints.txt", "constraints.lock.txt")
        for line in (ROOT / file).read_text().splitlines()
        if "==" in line and not line.startswith("#")
    }
    assert names <= locked


def test_only_what_it_copies_goes_to_the_builder_and_no_secret_does() -> None:
    rules = [line for line in (FOLDER / "Dockerfile.dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert rules[0] == "*"
    let_in = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    copied = {
        name.rstrip("/").split("/")[0]
        for name_of in ("front", "wheels")
        for word, rest in stages()[name_of]
        if word == "COPY" and not rest.startswith("--from")
        for name in rest.split()[:-1]
    }
    assert copied == let_in
    assert all((ROOT / name).exists() for name in let_in)
    assert "**/.env" in rules


# Done here -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made as the Dockerfile makes it, from what the builder is given; but with the tools of this environment."""
    source, wheels = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheels")
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    for path in tracked():
        target = source / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / path).read_bytes())
    vendor = source / "jobs" / "dashboard" / "static" / "vendor"
    vendor.mkdir()
    (vendor / "LICENSES.txt").write_text("made by the stage front")
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"  # what pip has it do
    subprocess.run([sys.executable, "-c", build, str(wheels)], cwd=source, check=True, capture_output=True, timeout=120)
    (made,) = wheels.iterdir()
    return made


def tracked() -> Sequence[Path]:
    """Files of the packages, as the builder is given them."""
    skipped = {"__pycache__", "node_modules", "vendor", "deploy"}
    return [
        path.relative_to(ROOT)
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*"))
        if path.is_file() and not skipped & set(path.relative_to(ROOT).parts)
    ]


def test_the_wheel_has_every_file_of_the_packages_and_none_besides(wheel: Path) -> None:
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    wanted = {path.as_posix() for path in tracked() if "front" not in path.parts}
    assert wanted - inside == set()
    assert inside - wanted == {"jobs/dashboard/static/vendor/LICENSES.txt"}


def test_the_command_in_the_wheel_runs_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as files:
        files.extractall(tmp_path / "installed")
    (entry,) = (tmp_path / "installed").glob("*.dist-info/entry_points.txt")
    assert "resmap = jobs.cli:main" in entry.read_text()
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(tmp_path / "installed"),
        "RESMAP_REGISTRY": f"sqlite:///{tmp_path}/registry.db",
    }
    program = (
        "import sys; sys.dont_write_bytecode = True; import jobs.cli as it; sys.stderr.write(it.__file__); it.main()"
    )

    def said(word: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", program, word], cwd=tmp_path, env=environment, capture_output=True, text=True,
            check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stderr.startswith(str(tmp_path / "installed"))
        return done.stdout

    assert said("status").startswith("no runs yet")  # the migrations are there, and made a registry


def needed_by(name: str, extras: set[str]) -> set[str]:
    """Packages that a package needs, and those that these need, as far as they are here."""
    found: set[str] = set()
    waiting = [(name, extras)]
    while waiting:
        name, extras = waiting.pop()
        with suppress(PackageNotFoundError):
            for text in requires(name) or ():
                needed = Requirement(text)
                wanted = needed.marker is None or any(
                    needed.marker.evaluate({"extra": extra}) for extra in (extras or {""})
                )
                if wanted and (key := canonicalize_name(needed.name)) not in found:
                    found.add(key)
                    waiting.append((key, set(needed.extras)))
    return found


def libraries_of(name: str) -> list[Path]:
    with suppress(PackageNotFoundError):
        return [Path(str(file.locate())) for file in files(name) or () if ".so" in file.suffixes]
    return []


@pytest.mark.skipif(which("readelf") is None, reason="readelf is in Debian's package binutils, which is not installed")
def test_libraries_that_wheels_look_for_and_do_not_bring_are_in_the_image() -> None:
    objects = [path for name in needed_by("resmap", {"postgres"}) for path in libraries_of(name)]
    brought = {path.name for path in objects}
    wanted: set[str] = set()
    for start in range(0, len(objects), 200):
        said = subprocess.run(
            ["readelf", "-d", *objects[start : start + 200]], capture_output=True, text=True, check=False, timeout=120
        ).stdout
        brought |= set(re.findall(r"\(SONAME\).*\[(.+)\]", said))
        wanted |= set(re.findall(r"\(NEEDED\).*\[(.+)\]", said))
    of_debian = {"ld-linux-x86-64.so.2", "libc.so.6", "libdl.so.2", "libm.so.6", "libpthread.so.0", "libresolv.so.2",
                 "librt.so.1", "libgcc_s.so.1", "libstdc++.so.6", "libz.so.1"}  # fmt: skip
    assert wanted - brought - of_debian <= {"libexpat.so.1"}
    assert any("libexpat1" in command for command in commands("base"))
