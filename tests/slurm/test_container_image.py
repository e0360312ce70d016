"""The image that docker/Dockerfile builds is the one that the cluster files name."""

import re
from pathlib import Path, PurePosixPath

import pytest
import yaml

from slurm.cluster import CLUSTERS

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "docker/Dockerfile").read_text(encoding="utf-8")
IMAGES = {
    path.name: content["container"]["image"]
    for path in sorted(CLUSTERS.glob("*.yaml"))
    if "container" in (content := yaml.safe_load(path.read_text(encoding="utf-8")))
}


@pytest.mark.parametrize("file", IMAGES)
def test_a_cluster_file_names_an_image_that_the_dockerfile_builds(file) -> None:
    built = re.findall(r"enroot import -o (\S+)", DOCKERFILE)
    assert PurePosixPath(IMAGES[file]).name in built


def test_the_names_of_the_images_hold_the_version_of_nemo() -> None:
    (version,) = re.findall(r"^FROM nvcr.io/nvidia/nemo:(\S+)", DOCKERFILE, re.MULTILINE)
    assert set(IMAGES) == {"gb200_nvl72.yaml", "h100.yaml"}
    for image in IMAGES.values():
        assert f"nemo-{version}-granite41" in image


def test_the_packages_that_the_image_adds_are_pinned() -> None:
    names = re.findall(r"\b(?:names|lm_eval)=['\"](?:\$lm_eval\|)?([^'\"]+)['\"]", DOCKERFILE)
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    packages = "|".join(names).split("|")
    assert {"nemo_run", "lm_eval", "typer", "sacrebleu"} <= set(packages)
    for package in packages:
        assert re.search(rf"^{package}==", lock, re.MULTILINE | re.IGNORECASE), package
