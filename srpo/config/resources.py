"""What each step asks of a cluster; a run on this machine takes what is there."""

from pydantic import ConfigDict, Field, field_validator

from srpo.config.base import Settings
from srpo.gpus import GPUS


class StepResources(Settings):
    """One step's pod: a step that only downloads or registers."""

    gpus: int | None = Field(default=None, ge=0)
    """GPUs of each pod; null: what the step can use, none to download and register, or with the builtin models."""
    cpu: float = Field(default=4, gt=0)
    """Cores."""
    memory: int = Field(default=16, gt=0)
    """GiB, shared memory included."""
    node_pool: dict[str, str] = Field(default_factory=dict)
    """Labels that a node must have, besides gpu_labels for a step with GPUs."""
    spot: bool = False
    """Take nodes that may be taken away: training goes on from its last checkpoint, other steps begin again."""
    retries: int = Field(default=2, ge=0)
    """How often a step that failed is tried again; one that says that it would not help is not. With `spot` 20 times
    more, because ZenML counts a node that was taken away as a failure."""
    timeout: int | None = Field(default=None, gt=0)
    """Minutes after which the step is stopped, all tries together, of several nodes each try; null: never."""


class GpuStepResources(StepResources):
    """The pod of a step that runs a model."""

    cpu: float = Field(default=8, gt=0)
    """Cores."""
    memory: int = Field(default=64, gt=0)
    """GiB, shared memory included."""


class TrainResources(GpuStepResources):
    """The pods of the training."""

    nodes: int = Field(default=1, gt=0)
    """Pods that share train.num_processes evenly, each with these resources; several need the stack `kubernetes`."""


class ResourcesConfig(Settings):
    """Pods of a run on a cluster. The numbers that come out are the same wherever it runs."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)  # it is built anew from parts
    image: str | None = Field(default=None, min_length=1)
    """Container image of all steps (infra/docker); null: what the environment variable SRPO_IMAGE names."""
    gpu: str | None = None
    """Kind of the GPUs (H100, A100-80, ...), for the GPU-hours and the price that are planned; null: no prediction."""
    max_gpu_hours: float | None = Field(default=None, gt=0)
    """Training stops with a checkpoint once its processes have run so long, all attempts together; the best update so
    far is evaluated and registered, and `run --resume` with a larger number goes on from there. null: never."""
    gpu_labels: dict[str, str] = Field(default={"nvidia.com/gpu.present": "true"})
    """How the cluster labels nodes with GPUs; the taint nvidia.com/gpu is tolerated by the steps that take one."""
    spot_labels: dict[str, str] = Field(default={"karpenter.sh/capacity-type": "spot"}, min_length=1)
    """How the cluster labels and taints nodes that may be taken away; Karpenter's way."""
    download: StepResources = StepResources()
    """Pod of the first step."""
    embed: GpuStepResources = GpuStepResources()
    """Pod of the second."""
    train: TrainResources = TrainResources()
    """Pods of the training, with a GPU for each of train.num_processes."""
    evaluate: GpuStepResources = GpuStepResources()
    """Pod of the evaluation."""
    register_: StepResources = Field(default=StepResources(), alias="register")
    """Pod of the last step: `register` in the file, a name that pydantic's models use otherwise."""

    @field_validator("gpu")
    @classmethod
    def gpu_is_known(cls, gpu: str | None) -> str | None:
        """Refuse a kind without figures."""
        if gpu is not None and gpu not in GPUS:
            raise ValueError(f"{gpu!r} is not in the list; choose from {', '.join(GPUS)}")
        return gpu

    def of(self, step: str) -> StepResources:
        """What a step of the pipeline asks for."""
        found = getattr(self, "register_" if step == "register" else step)
        assert isinstance(found, StepResources)
        return found
