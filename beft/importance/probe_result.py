"""The evidence of a probe on disk: every bias before and after it, Fisher information, and what is inert.

A folder holds ``before.safetensors``, ``after.safetensors``, ``fisher.safetensors`` (keys: names of the sites) and
``sites.json`` (the sites, each with its mask of inert components).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from beft.bank.inertness import inert_terms
from beft.errors import InputError
from beft.files import read_json, write_bytes, write_json
from beft.importance.registry import score as score_by
from beft.importance.result import Importance
from beft.importance.selection import Selection, choose_target
from beft.settings import Settings
from beft.sites.site import BiasSite

_FILES = {"before": "before.safetensors", "after": "after.safetensors", "information": "fisher.safetensors"}
_SITES = "sites.json"


@dataclass(frozen=True)
class Scores:
    """The importance of every bias term by every method, what is inert, and the target term."""

    tables: tuple[Importance, ...]
    inert: dict[str, dict[str, Any]]
    selection: Selection

    def of_term(self, term: str) -> dict[str, float | None]:
        """Method -> the score of a term, averaged over its layers; None: no direction."""
        return {table.method: table.mean[term] for table in self.tables}

    def is_inert(self, term: str) -> bool:
        """Whether no component of a term changes a logit."""
        return bool(self.inert[term]["inert"])

    def to_json(self) -> dict[str, Any]:
        """The content of ``importance.json``."""
        return {
            "tables": {table.method: table.to_json() for table in self.tables},
            "inert": self.inert,
            "selection": self.selection.to_json(),
        }


@dataclass(frozen=True, repr=False)
class ProbeResult:
    """What the importance methods need, each by bias site, [width] a site.

    Attributes:
        information: Fisher information of each component, taken before the probe.
        inert: True for a component that changes no logit.
    """

    before: Mapping[BiasSite, Tensor]
    after: Mapping[BiasSite, Tensor]
    information: Mapping[BiasSite, Tensor]
    inert: Mapping[BiasSite, Tensor]

    def __repr__(self) -> str:
        terms = dict.fromkeys(site.term for site in self.before)
        return f"what {len(self.before)} bias sites are scored by: {', '.join(terms)}"

    def save(self, folder: Path) -> None:
        """Write the four files into a folder."""
        for name, file in _FILES.items():
            write_vectors(folder / file, getattr(self, name))
        write_sites(folder / _SITES, self.inert)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the four files.

        Raises:
            InputError: The folder holds no probe, or its files do not belong together.
        """
        inert = read_sites(folder / _SITES)
        return cls(
            **{name: read_vectors(folder / file, tuple(inert)) for name, file in _FILES.items()},
            inert=inert,
        )

    def scores(self, settings: Settings) -> Scores:
        """Score every term by the methods of ``settings.score``, and choose the target term.

        Raises:
            InputError: A candidate is no term of this base, or all of them are inert.
            BeftError: The probe moved none of the candidates.
        """
        wanted = settings.score
        vectors = {name: getattr(self, name) for name in _FILES}
        tables = tuple(score_by(method, **vectors) for method in wanted.methods)
        inert = inert_terms(self.inert)
        left_out = {} if settings.protocol == "paper" else inert
        selection = choose_target(
            tables,
            wanted.candidates,
            left_out,
            any(site.added for site in self.inert if site.term in wanted.candidates and not left_out.get(site.term)),
            wanted.select_by,
        )
        facts = {
            term: {
                "inert": flag,
                "inert_components": sum(int(mask.sum()) for site, mask in self.inert.items() if site.term == term),
                "components": sum(site.width for site in self.inert if site.term == term),
                "added": any(site.added for site in self.inert if site.term == term),
            }
            for term, flag in inert.items()
        }
        return Scores(tables, facts, selection)


def write_vectors(path: Path, vectors: Mapping[BiasSite, Tensor]) -> None:
    """Write one tensor a site, named by the site."""
    tensors = {site.name: vector.detach().cpu().contiguous() for site, vector in sorted(vectors.items())}
    write_bytes(path, save(tensors))


def read_vectors(path: Path, sites: tuple[BiasSite, ...]) -> dict[BiasSite, Tensor]:
    """Read what ``write_vectors`` wrote.

    Raises:
        InputError: The file is missing or damaged, or a site is missing in it or has another width.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read as evidence of a probe: {_first_line(error)}") from None
    wrong = [site.name for site in sites if site.name not in tensors or tensors[site.name].shape != (site.width,)]
    if wrong:
        raise InputError(f"{path} has no vector of the right width for {wrong[0]} and {len(wrong) - 1} more sites")
    return {site: tensors[site.name] for site in sites}


def write_sites(path: Path, sites: Mapping[BiasSite, Tensor]) -> None:
    """Write the sites, each with its inert components."""
    write_json(path, [{**site.to_json(), "inert": inert.int().tolist()} for site, inert in sites.items()])


def read_sites(path: Path) -> dict[BiasSite, Tensor]:
    """Read what ``write_sites`` wrote: each site's mask of inert components, bool, [width].

    Raises:
        InputError: The file is missing or is not what was written.
    """
    if not path.exists():
        raise InputError(f"{path.parent} holds no probe: it has no {path.name}. Name the folder that 'probe' wrote")
    try:
        entries = read_json(path)
        masks = [torch.tensor(entry.pop("inert"), dtype=torch.bool) for entry in entries]
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise InputError(f"{path} does not list the bias sites of a probe: {_first_line(error)}") from None
    sites = [BiasSite.from_json(entry) for entry in entries]
    if not sites or any(mask.shape != (site.width,) for site, mask in zip(sites, masks, strict=True)):
        raise InputError(f"{path} does not list the bias sites of a probe: a mask has another width than its site")
    return dict(zip(sites, masks, strict=True))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
