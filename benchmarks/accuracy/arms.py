"""The arms of the accuracy studies: how the training cases are drawn and labelled, and how a network is trained.

An arm is named LABELLING-METHOD, as in ``every5-gated-wsl``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import product

from nnunet_wsl.conversion import ConversionSettings, Simulation
from nnunet_wsl.conversion.supervision import Between


@dataclass(frozen=True)
class Labelling:
    """How the training cases are drawn, and what becomes of it.

    Parameters
    ----------
    title : str
        How tables call it.
    simulation : Simulation
        How contours are drawn around the dense masks.
    between : {"ignore", "gated", "interpolate"}
        What becomes of the slices between.
    contour_sigma_mm : float
        What the conversion is told of the contours' uncertainty.
    """

    title: str
    simulation: Simulation = field(default_factory=Simulation)
    between: Between = "ignore"
    contour_sigma_mm: float = 0.0


@dataclass(frozen=True)
class Method:
    """How a network is trained.

    Parameters
    ----------
    title : str
        How tables call it.
    trainer : str
        Class in ``trainers/``.
    relevance : str
        Which relevance channels it needs, a key of `RELEVANCE`.
    in_image : bool
        Whether its patches stay in the image, as those of ``WSLTrainer`` do, or are nnU-Net's own.
    """

    title: str
    trainer: str
    relevance: str = "Relevance"
    in_image: bool = True


RELEVANCE = {
    "": ConversionSettings(relevance="none"),
    "Relevance": ConversionSettings(),
    "Both": ConversionSettings(relevance_mode="both"),
    "Intensity": ConversionSettings(relevance_mode="intensity"),
    "Wide": ConversionSettings(sigma_mm=(2.0,)),
    "Slice": ConversionSettings(relevance_search="slice"),
    "Each": ConversionSettings(),
}
"""Kinds of relevance channels, by what is appended to the dataset's name."""

DRAWN_ONE_BY_ONE = ("Each",)
"""Those of contours around every single object, where several make one label and may touch."""

BETWEEN: dict[Between, str] = {"ignore": "ignored between", "gated": "gated", "interpolate": "interpolated"}

LABELLINGS = {
    "dense": Labelling("every slice"),
    **{
        f"every{step}-{between}": Labelling(f"every {ordinal}, {title}", Simulation(every=step), between)
        for (step, ordinal), (between, title) in product(((3, "3rd"), (5, "5th"), (8, "8th")), BETWEEN.items())
    },
    "jitter1": Labelling("every slice, jitter 1 mm", Simulation(jitter_mm=1.0)),
    "jitter2": Labelling("every slice, jitter 2 mm", Simulation(jitter_mm=2.0)),
    "open": Labelling("half of the slices half drawn", Simulation(opened=0.5)),
    "dropped-gated": Labelling("30 % of the slices forgotten, gated", Simulation(drop=0.3), "gated"),
    "jitter1-told": Labelling("every slice, jitter 1 mm, told", Simulation(jitter_mm=1.0), contour_sigma_mm=1.0),
    "jitter2-told": Labelling("every slice, jitter 2 mm, told", Simulation(jitter_mm=2.0), contour_sigma_mm=2.0),
}

METHODS = {
    "stock": Method("stock", "StudyStock", "", in_image=False),
    "in-image": Method("stock, patches in the image", "StudyStockInImage", ""),
    "wsl": Method("WSL", "StudyWSL"),
    "wsl-stock-patches": Method("WSL, nnU-Net's patches", "StudyWSLStockPatches", in_image=False),
    "prior": Method("WSL, as a prior", "StudyWSLPrior"),
    "taught": Method("WSL, self-training", "StudyWSLTaught"),
    "taught-gated": Method("WSL, self-training, gated", "StudyWSLTaughtGated"),
    "half": Method("WSL, half of the iterations", "StudyWSLHalf"),
    "in-image-half": Method("stock, patches in the image, half of the iterations", "StudyStockInImageHalf", ""),
    "twice": Method("WSL, twice the iterations", "StudyWSLTwice"),
    "consistent": Method("WSL, consistent with the mask", "StudyWSLConsistent"),
    "objects": Method("WSL, every patch shows an object", "StudyWSLObjectPatches"),
    "in-image-objects": Method("stock, every patch shows an object", "StudyStockObjectPatches", ""),
    "mostly-objects": Method("WSL, five in six patches show an object", "StudyWSLMostlyObjectPatches"),
    "relevant": Method("WSL, every patch is centred by the relevance", "StudyWSLRelevantPatches"),
    "fade": Method("WSL, fading", "StudyWSLFade"),
    "weight0.3": Method("WSL, lambda 0.3", "StudyWSLWeight03"),
    "weight3": Method("WSL, lambda 3", "StudyWSLWeight3"),
    "squared": Method("WSL, squared error", "StudyWSLSquaredError"),
    "entropy": Method("WSL, cross-entropy", "StudyWSLCrossEntropy"),
    "entropy-decay": Method("WSL, cross-entropy, lambda falls to 0 at half-time", "StudyWSLCrossEntropyDecay"),
    "finest": Method("WSL, no deep supervision of the relevance", "StudyWSLFinest"),
    "deep-head": Method("WSL, a head with one more layer", "StudyWSLDeepHead"),
    "focused": Method("WSL, and cross-entropy near contours", "StudyWSLFocused"),
    "focused-only": Method("cross-entropy near contours, no relevance head", "StudyFocused"),
    "signed": Method("signed distance head", "StudySignedDistance"),
    "boundary": Method("boundary loss", "StudyBoundary", "", in_image=False),
    "fused": Method("WSL, one fused map", "StudyWSLFused"),
    "both": Method("WSL, distance and intensity", "StudyWSL", "Both"),
    "intensity": Method("WSL, intensity", "StudyWSL", "Intensity"),
    "slice": Method("WSL, nearest in the slice", "StudyWSL", "Slice"),
    "each": Method("WSL, a contour for each object", "StudyWSL", "Each"),
    "wide": Method("WSL, sigma 2 mm", "StudyWSL", "Wide"),
    "wide-entropy": Method("WSL, sigma 2 mm, cross-entropy", "StudyWSLCrossEntropy", "Wide"),
    "wide-entropy-decay": Method(
        "WSL, sigma 2 mm, cross-entropy, lambda falls to 0 at half-time", "StudyWSLCrossEntropyDecay", "Wide"
    ),
}

ARMS = {f"{labelling}-{method}": (labelling, method) for labelling, method in product(LABELLINGS, METHODS)}

MAIN_ARMS = tuple(
    f"{labelling}-{method}"
    for labelling in ("dense", "every5-ignore", "every5-gated", "every5-interpolate")
    for method in ("stock", "wsl")
)

WITH_WSL = (
    "both", "intensity", "slice", "each", "fused", "deep-head", "consistent", "objects", "mostly-objects", "relevant",
)  # fmt: skip
"""Methods that are also held against WSL on the same labels."""


def dataset_of(arm: str) -> str:
    """Folder name of the dataset that an arm trains on."""
    labelling, method = ARMS[arm]
    relevance = METHODS[method].relevance
    number = 601 + list(product(LABELLINGS, RELEVANCE)).index((labelling, relevance))
    return f"Dataset{number}_{labelling.title().replace('-', '')}{relevance}"


def settings_of(arm: str) -> ConversionSettings:
    """How the contours of an arm's dataset are converted."""
    labelling, method = ARMS[arm]
    relevance, drawn = RELEVANCE[METHODS[method].relevance], LABELLINGS[labelling]
    return replace(
        relevance,
        between=drawn.between,
        contour_sigma_mm=drawn.contour_sigma_mm,
        overlap="priority" if drawn.simulation.jitter_mm else "error",  # contours that jitter may overlap
    )


def title_of(arm: str) -> str:
    """How tables call an arm."""
    labelling, method = ARMS[arm]
    return f"{LABELLINGS[labelling].title}: {METHODS[method].title}"


def pairs(arms: list[str]) -> list[tuple[str, str]]:
    """Which arms are compared; the first of a pair is what the second is held against.

    Of one labelling, every method with stock and with stock on the same patches, and another relevance, or other
    patches, with the default's; of one method, gated with ignored and interpolated, and told with untold jitter;
    interpolation that fades, or is a prior, and self-training with WSL on what is gated or ignored, self-training also
    with twice the iterations; and what is gated, a prior or self-training with all slices drawn, and with stock on what
    is ignored between.
    """
    found = []
    for arm in arms:
        labelling, method = ARMS[arm]
        others = [f"{labelling}-stock"]
        if METHODS[method].in_image:
            others.append(f"{labelling}-in-image")
        if labelling.endswith("-gated"):
            step = labelling.removesuffix("-gated")
            others += [f"{step}-ignore-{method}", f"{step}-interpolate-{method}", f"{step}-ignore-stock"]
            others += ["dense-stock", f"dense-{method}"]
        if labelling.endswith("-told"):
            others += [f"{labelling.removesuffix('-told')}-{other}" for other in dict.fromkeys((method, "stock"))]
        if method == "half":
            others.append(f"{labelling}-in-image-half")
        if method == "objects":
            others.append(f"{labelling}-in-image-objects")
        if method in WITH_WSL:
            others.append(f"{labelling}-wsl")
        if method == "fade":
            others += [f"{labelling}-wsl", f"{labelling.removesuffix('-gated')}-ignore-wsl"]
        if method in ("prior", "taught", "taught-gated"):
            step = labelling.removesuffix("-interpolate")
            others += [f"{step}-{between}-wsl" for between in BETWEEN]
            others += [f"{step}-{between}-twice" for between in BETWEEN]
            others += [f"{labelling.removesuffix('-interpolate')}-ignore-stock", "dense-stock", "dense-wsl"]
        found += [(other, arm) for other in dict.fromkeys(others) if other in arms and other != arm]
    return found
