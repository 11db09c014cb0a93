"""The loop, and what is trained."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from srpo.config.base import Settings

Beta = Annotated[float, Field(ge=0, lt=1)]
FLUX_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")


class LoraConfig(Settings):
    """A low-rank adapter instead of the transformer's own weights."""

    rank: int = Field(default=16, gt=0)
    """Rank of the change of each layer."""
    alpha: int = Field(default=16, gt=0)
    """The change counts alpha / rank."""
    target_modules: tuple[str, ...] = Field(default=FLUX_ATTENTION, min_length=1)
    """Names of the linear layers that get an adapter, by their last parts."""


class TrainConfig(Settings):
    """The loop."""

    num_updates: int = Field(default=20, gt=0)
    """Optimizer steps."""
    num_processes: int = Field(default=1, gt=0)
    """Processes (GPUs) that share an update."""
    batch_size: int = Field(default=1, gt=0)
    """Prompts per process and micro-batch."""
    accumulation: int = Field(default=1, gt=0)
    """Micro-batches per update."""
    learning_rate: float = Field(default=5e-6, gt=0)
    """AdamW; the authors advise 1e-6 to 1e-5 for FLUX."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """AdamW."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """AdamW."""
    eps: float = Field(default=1e-8, gt=0)
    """AdamW."""
    max_grad_norm: float = Field(default=0.1, gt=0)
    """The gradient is scaled down to this norm."""
    jitter: int = Field(default=0, ge=0)
    """Pixels that a picture is moved at most, across and down, at random, before a reward sees it. Half a patch of the
    reward's image tower, as it lies on the picture (23 for ViT-H-14 and 720 px), keeps the model from drawing the grid
    of patches, which the reward likes and people do not; 0 is the reference's loss."""
    schedule: Literal["constant", "constant_with_warmup", "linear", "cosine"] = "constant"
    """Learning rate over the updates."""
    num_warmup_updates: int = Field(default=0, ge=0)
    """Updates of linear warm-up, for the schedules that have one."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """bf16: autocast over fp32 master weights; fp32: no autocast."""
    start: str = "base"
    """What training starts from: `base`; `champion`, that of the moment when the run is made; models:/NAME/VERSION; or
    the path of a transformer or an adapter of the same base."""
    lora: LoraConfig | None = None
    """Train an adapter; null trains every weight of the transformer."""
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    """adamw_8bit keeps the moments in blocks of 8-bit values: a quarter of their memory."""
    rounding: Literal["nearest", "stochastic"] = "nearest"
    """How an update is rounded into bf16 weights; stochastic keeps in the mean what nearest would drop."""
    sharding: Literal["none", "fsdp2"] = "none"
    """fsdp2: each process keeps a slice of weights, gradients and moments; none: each keeps them all."""
    gather: Literal["each_pass", "each_update"] = "each_pass"
    """When slices of weights are gathered: for each pass through a block, or once an update, which takes the memory of
    a whole copy in the precision of autocast until the step, and most of what is sent between processes away."""
    reduce: Literal["each_batch", "each_update"] = "each_batch"
    """When gradients are averaged and sliced: after each micro-batch, or once an update, which keeps all of them whole
    in fp32 until then."""
    gradient_checkpointing: Literal["none", "selective", "full"] = "full"
    """What of the transformer the backward pass computes again: all, all but matmuls and attention, or nothing."""
    vae_checkpointing: bool = False
    """Recompute the VAE's activations too."""
    attention: str | None = None
    """Attention kernel by diffusers' name (`native`, `_native_cudnn`, `flash`, `_flash_3`); null is torch's choice."""
    compile: bool = False
    """Compile the repeated blocks of the transformer (exact to rounding; a minute once, then faster)."""
    deterministic: bool = True
    """Deterministic algorithms only, so that a resumed run equals an uninterrupted one bit for bit. Attention by
    `_native_cudnn` or by a package (`flash`, `_flash_3`) has none."""
    save_every: int = Field(default=5, gt=0)
    """Updates between checkpoints."""
    keep_last: int = Field(default=2, gt=0)
    """Checkpoints kept besides the best."""

    @property
    def images_per_update(self) -> int:
        """Rollouts, or real images, of one update over all processes."""
        return self.num_processes * self.batch_size * self.accumulation

    @property
    def computes_with_copies(self) -> bool:
        """Whether training computes with bf16 copies of fp32 weights, which it moves by less than half a unit of bf16.

        An adapter's weights begin at zero, or at random: they are small beside what moves them.
        """
        return self.precision == "bf16" and self.lora is None and self.rounding == "nearest"

    @model_validator(mode="after")
    def sharding_has_something_to_shard(self) -> Self:
        """Say what sharding does not go with."""
        if self.sharding == "none":
            for name, value, default in (("gather", self.gather, "each_pass"), ("reduce", self.reduce, "each_batch")):
                if value != default:
                    raise ValueError(f"{name} {value!r} acts on slices; set sharding to 'fsdp2', or leave it out")
            return self
        if self.num_processes == 1:
            raise ValueError("sharding 'fsdp2' needs more than one process; set num_processes, or sharding to 'none'")
        if self.lora or self.optimizer != "adamw" or self.rounding != "nearest":
            raise ValueError(
                "sharding 'fsdp2' trains every weight in fp32 by plain AdamW; LoRA and 8-bit moments fit without it"
            )
        return self

    @model_validator(mode="after")
    def what_is_kept_is_seen(self) -> Self:
        """Selective checkpointing sees a compiled block's products under names that it does not keep."""
        if self.compile and self.gradient_checkpointing == "selective":
            raise ValueError(
                "gradient_checkpointing 'selective' keeps nothing of compiled blocks, so that it computes all of them "
                "again; set compile to false, or gradient_checkpointing to 'full' or 'none'"
            )
        return self

    @model_validator(mode="after")
    def warmup_is_read(self) -> Self:
        """A warm-up under a schedule that has none would be ignored."""
        if self.schedule == "constant" and self.num_warmup_updates:
            raise ValueError("num_warmup_updates has no effect with schedule 'constant'; use 'constant_with_warmup'")
        return self
