"""What a model is (Architecture), how it is computed (Compute) and what is learned beside it (LoraConfig)."""

from __future__ import annotations

import dataclasses

FAMILIES = ("qwen3", "qwen2", "llama")
REMAT = ("none", "dots", "attention", "full")  # from most memory to most work
ATTENTION = ("auto", "plain", "splash", "cudnn")
PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")


@dataclasses.dataclass(frozen=True)
class Llama3Rope:
    """The frequency scaling of Llama 3.1 and later: long wavelengths are stretched by ``factor``."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A dense decoder: pre-norm, rotary positions, grouped-query attention, SwiGLU.

    ``head_width`` need not be ``width // heads``. ``qk_norm`` is Qwen3's norm of every query and key head,
    ``qkv_bias`` Qwen2's bias of those projections. ``tied`` uses the embedding as the head.

    Raises:
      ValueError: sizes that no such decoder can have.
    """

    family: str
    vocab_size: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    mlp_width: int
    rope_theta: float = 10000.0
    rope_scaling: Llama3Rope | None = None
    norm_eps: float = 1e-6
    max_positions: int = 4096
    qk_norm: bool = False
    qkv_bias: bool = False
    tied: bool = True

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"architecture.family is {self.family!r}: use one of {FAMILIES}")
        sizes = ("vocab_size", "width", "layers", "heads", "kv_heads", "head_width", "mlp_width", "max_positions")
        for name in sizes:
            if getattr(self, name) < 1:
                raise ValueError(f"architecture.{name} is {getattr(self, name)}: it must be at least 1")
        if self.heads % self.kv_heads:
            raise ValueError(
                f"architecture.heads is {self.heads}, kv_heads is {self.kv_heads}: "
                "every key/value head serves the same number of query heads, so kv_heads must divide heads"
            )
        if self.head_width % 2:
            raise ValueError(f"architecture.head_width is {self.head_width}: rotary positions need an even width")

    @property
    def sizes(self) -> dict[str, int]:
        """What there is along each logical axis that a mesh may cut."""
        return {
            "vocab": self.vocab_size,
            "width": self.width,
            "heads": self.heads,
            "kv_heads": self.kv_heads,
            "mlp": self.mlp_width,
        }


@dataclasses.dataclass(frozen=True)
class Compute:
    """How a model is run; no field changes what it computes, but for rounding.

    ``dtype`` is that of activations, ``param_dtype`` that of the stored weights (adapters are always float32: they
    learn). ``remat`` says what is kept of a layer for the backward pass, which computes the rest again: "none" keeps
    everything but attention's scores, "dots" the outputs of the weight multiplications and of attention, "attention"
    the output of attention and the input of the layer, "full" the input of the layer. ``scan_layers`` compiles one
    layer for all. ``cache_dtype`` is that of the keys and values that the sampler keeps ("same": ``dtype``).
    ``attention`` says who computes it in scoring and training: "splash" (a kernel for TPUs), "cudnn" (GPUs), "plain",
    or "auto": the kernel of the platform where shapes suit it, else "plain". The sampler's is always plain.

    Raises:
      ValueError: a name that is not one of those.
    """

    dtype: str = "float32"
    param_dtype: str = "float32"
    remat: str = "none"
    scan_layers: bool = True
    cache_dtype: str = "same"
    attention: str = "auto"

    def __post_init__(self) -> None:
        for name in ("dtype", "param_dtype"):
            if getattr(self, name) not in ("float32", "bfloat16"):
                raise ValueError(f"compute.{name} is {getattr(self, name)!r}: use 'float32' or 'bfloat16'")
        if self.cache_dtype not in ("same", "float32", "bfloat16"):
            raise ValueError(f"compute.cache_dtype is {self.cache_dtype!r}: use 'same', 'float32' or 'bfloat16'")
        if self.remat not in REMAT:
            raise ValueError(f"compute.remat is {self.remat!r}: use one of {REMAT}")
        if self.attention not in ATTENTION:
            raise ValueError(f"compute.attention is {self.attention!r}: use one of {ATTENTION}")


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685): W + alpha / rank * B A on the named projections.

    Raises:
      ValueError: an unknown target, none at all, or a rank below 1.
    """

    rank: int = 64
    alpha: float = 128.0
    targets: tuple[str, ...] = PROJECTIONS

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(
                f"lora.rank is {self.rank}: it must be at least 1; leave lora out to train without adapters"
            )
        unknown = sorted(set(self.targets) - set(PROJECTIONS))
        if unknown or not self.targets:
            raise ValueError(f"lora.targets is {self.targets}: name at least one of {PROJECTIONS}, and nothing else")

    @property
    def scale(self) -> float:
        """What B A is multiplied with."""
        return self.alpha / self.rank
