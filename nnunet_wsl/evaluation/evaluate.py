"""Score a folder of predictions against a folder of references."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from functools import partial
from pathlib import Path
from typing import Any

from nnunet_wsl.errors import InputError, counted, rounded
from nnunet_wsl.evaluation.figures import WORST_CASES, CaseView, draw_distributions, draw_worst_cases, worst_first
from nnunet_wsl.evaluation.label_maps import CasePair, LabelMap, pair_cases, read_pair
from nnunet_wsl.evaluation.objects import ScoredLabels
from nnunet_wsl.evaluation.output import results_in
from nnunet_wsl.evaluation.run import CaseScores, Run, case_metrics
from nnunet_wsl.evaluation.scores import score_label_maps
from nnunet_wsl.files import read_json
from nnunet_wsl.parallel import for_all

_LOG = logging.getLogger(__name__)

DISTRIBUTIONS_FILE = "distributions.png"
WORST_CASES_FILE = "worst_cases.png"


_WIDEST_VOX = 10
"""Tolerance of the NSD, in the longest side of a voxel, above which there is a warning."""


def evaluate_folders(
    pred: Path,
    ref: Path,
    out: Path,
    *,
    dataset_json: Path | None = None,
    tolerances_mm: Mapping[str | None, float] | None = None,
    predicted_only: bool = False,
    jobs: int = 1,
) -> Run:
    """Score all cases and write ``summary.json``, ``metrics.csv`` and two pictures.

    Parameters
    ----------
    pred, ref : Path
        Folders of label maps with the same file names.
    out : Path
        Folder to write to; the files of a former evaluation are replaced when all is done.
    dataset_json : Path, optional
        nnU-Net's ``dataset.json``, by default that in ``pred``.
    tolerances_mm : mapping of str or None to float, optional
        Tolerance of the NSD by name of the object; that under None is for all others.
    predicted_only : bool
        Whether references without prediction are left out.
    jobs : int
        Number of cases scored at the same time.

    Returns
    -------
    Run

    Raises
    ------
    InputError
        If anything is wrong with the input; all bad cases together.
    """
    missing = [
        f"{option} '{folder}' is no folder. Give the one with the label maps."
        for option, folder in (("--pred", pred), ("--ref", ref))
        if not folder.is_dir()
    ]
    if missing:
        raise InputError(missing)
    path = pred / "dataset.json" if dataset_json is None else dataset_json
    if os.path.realpath(out) in (os.path.realpath(pred), os.path.realpath(ref)):
        raise InputError(f"--out '{out}' holds label maps. Choose another folder, for its pictures may look like some.")
    if os.path.realpath(pred) == os.path.realpath(ref):
        _LOG.warning("--pred and --ref are the same folder: everything will agree.")
    content = _read_dataset_json(path)
    labels = ScoredLabels.from_dataset_json(content, path).with_tolerances(tolerances_mm or {})
    _reader(content, path)
    pairs = pair_cases(pred, ref, content["file_ending"], predicted_only=predicted_only)
    reader = _reader(content, path, [pair.ref for pair in pairs])
    with results_in(out) as folder:  # from the start, to find now and not in hours that it cannot be written to
        scored, problems = for_all(partial(_score, reader=reader, labels=labels), pairs, jobs, "Scoring")
        if problems:
            raise InputError(problems)
        run = Run(
            tuple(scored),
            names={obj.key: obj.name for obj in labels.objects},
            tolerances_mm={obj.key: obj.tolerance_mm for obj in labels.objects},
            settings={"ignore_label": labels.ignore},
        )
        files = {pair.name: pair for pair in pairs}
        objects = {obj.key: obj for obj in labels.objects}
        views, sides_mm = [], []
        for case, key in worst_first(run)[:WORST_CASES]:  # one at a time: together they could fill the memory
            predicted, reference = read_pair(files[case.case], reader, labels)
            views.append(CaseView.of(case, objects[key], predicted, reference, labels.ignore))
            sides_mm.append(_largest_spacing_mm(reference))
        _warn_of_wide_tolerances(labels, min(sides_mm))
        run.write(folder)
        draw_distributions(run, folder / DISTRIBUTIONS_FILE)
        draw_worst_cases(views, folder / WORST_CASES_FILE)
    _LOG.info("Scored %s; wrote %s.", counted(len(run.cases), "case"), out)
    return run


def _warn_of_wide_tolerances(labels: ScoredLabels, voxel_mm: float) -> None:
    """Warn of tolerances of the NSD that are many voxels, as 1 mm is in microscopy: everything would be within."""
    if wide := [obj for obj in labels.objects if obj.tolerance_mm > _WIDEST_VOX * voxel_mm]:
        _LOG.warning(
            "The tolerance of the NSD is %g mm for '%s', which is %s voxels: it hardly tells good from bad. Give "
            "about one voxel, for example --tolerance-mm %.3g.",
            wide[0].tolerance_mm, wide[0].name, rounded(wide[0].tolerance_mm / voxel_mm), voxel_mm,
        )  # fmt: skip


def _largest_spacing_mm(label_map: LabelMap) -> float:
    """Largest side of a voxel, but along an axis with a single one, where nothing is measured."""
    sides_mm = [mm for mm, count in zip(label_map.spacing_mm_zyx, label_map.values.shape, strict=True) if count > 1]
    return float(max(sides_mm or label_map.spacing_mm_zyx))


def _score(pair: CasePair, reader: Any, labels: ScoredLabels) -> CaseScores:
    pred, ref = read_pair(pair, reader, labels)
    scores = score_label_maps(pred.values, ref.values, ref.spacing_mm_zyx, labels)
    return CaseScores(
        pair.name, str(pair.ref), str(pair.pred), {key: case_metrics(score) for key, score in scores.items()}
    )


def _read_dataset_json(path: Path) -> dict[str, Any]:
    content = read_json(path, "Pass the dataset.json of the dataset with --dataset-json.")
    if not isinstance(content, dict) or not isinstance(content.get("file_ending"), str):
        raise InputError(f"'{path}' has no 'file_ending', for example '.nii.gz'. Give nnU-Net's dataset.json.")
    return content


def _reader(dataset_json: dict[str, Any], path: Path, examples: Sequence[Path] = ()) -> Any:
    """Choose nnU-Net's reader as nnU-Net does: the first of the file ending that can read an example."""
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    for example in examples:
        # For every reader that cannot, nnU-Net prints a traceback.
        with suppress(RuntimeError), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            return determine_reader_writer_from_dataset_json(dataset_json, str(example), verbose=False)()
    try:
        return determine_reader_writer_from_dataset_json(dataset_json, verbose=False)()
    except (RuntimeError, TypeError) as error:
        named = dataset_json.get("overwrite_image_reader_writer", "None")
        raise InputError(
            f"'{path}': nnU-Net has no reader for file_ending '{dataset_json['file_ending']}' and "
            f"overwrite_image_reader_writer {named!r}. Correct them."
        ) from error
