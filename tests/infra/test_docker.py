"""The image: small base, locked versions, no root, no secret."""

import re
import tomllib

from zenml.utils.pipeline_docker_image_builder import DOCKER_IMAGE_WORKDIR

from pipelines.place import Place
from tests.infra.manifests import INFRA, ROOT, image_environment, image_problem, run_tool

DOCKERFILE = INFRA / "docker/Dockerfile"
TEXT = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
LINES = [line.split(maxsplit=1) for line in TEXT.splitlines() if line.strip()]


def stages() -> list[list[list[str]]]:
    starts = [index for index, line in enumerate(LINES) if line[0] == "FROM"]
    return [LINES[start:end] for start, end in zip(starts, [*starts[1:], len(LINES)], strict=True)]


def test_bases_are_pinned_and_the_same() -> None:
    """A virtual environment works only on the Python that made it."""
    bases = {stage[0][1].split(" AS ")[0] for stage in stages()}
    assert len(bases) == 1 and not image_problem(bases.pop())


def test_the_last_user_is_the_one_of_the_pods() -> None:
    user = [rest for name, rest in stages()[-1] if name == "USER"][-1]
    manifests = (INFRA / "kubernetes/train/base/train.yaml").read_text()
    assert user == "10001:10001" and "runAsUser: 10001" in manifests


def test_the_user_may_write_where_zenml_starts_every_step() -> None:
    (made,) = re.findall(r"install --directory --owner=srpo --group=srpo ([\w/ ]+)", TEXT)
    assert set(made.split()) == {"/work", DOCKER_IMAGE_WORKDIR}


def test_only_what_triton_compiles_with_is_installed_into_the_last_stage() -> None:
    first, *others = [rest for name, rest in stages()[-1] if name == "RUN"]
    packages = re.findall(r"apt-get install --yes --no-install-recommends ([\w -]+?) &&", first)
    assert packages == ["gcc libc6-dev"]
    assert not re.search(r"apt|pip|curl|wget", " ".join(others))


def test_no_layer_holds_a_secret() -> None:
    assert not [line for line in LINES if line[0] == "ARG"]
    assert not re.search(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY", TEXT)
    ignored = (INFRA / "docker/Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in ignored, "the build context is a list of what is wanted"


def test_everything_copied_exists_and_is_in_the_context() -> None:
    wanted = (INFRA / "docker/Dockerfile.dockerignore").read_text().splitlines()
    copied = [rest.split()[:-1] for name, rest in LINES if name == "COPY" and "--from" not in rest]
    for path in [path for paths in copied for path in paths]:
        assert (ROOT / path).exists() and f"!{path}" in wanted


def test_nothing_is_sent_anywhere() -> None:
    """As by the command line."""
    quiet = {
        key: value for key, value in Place(ROOT).environment().items() if re.search("ANALYTICS|TELEMETRY|TRACK", key)
    }
    assert len(quiet) == 4 and quiet.items() <= image_environment().items()


def test_dependencies_are_locked() -> None:
    """Everything the image is asked to hold has one version."""
    locked = set(re.findall(r"^([\w.-]+)==\S+$", _normal((ROOT / "constraints.txt").read_text()), re.M))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["cluster"]]
    assert {_normal(re.split(r"[>=\[]", name)[0]) for name in wanted} <= locked
    install = next(rest for name, rest in LINES if name == "RUN" and "pip install" in rest)
    assert "--constraint constraints.txt" in install and '--editable ".[cluster]"' in install


def _normal(text: str) -> str:
    return text.lower().replace("_", "-")


def test_hadolint_finds_nothing() -> None:
    run_tool("hadolint", str(DOCKERFILE))
