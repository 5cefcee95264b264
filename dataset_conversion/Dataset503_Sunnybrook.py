"""Sunnybrook Cardiac Data: cine MR with expert contours of the left ventricle, inner (endocardium) and outer.

Data: CC0 1.0. Cite Radau et al., Evaluation Framework for Algorithms Segmenting Short Axis Cardiac MRI, The MIDAS
Journal, https://doi.org/10.54294/g80ruo. Of the release with folders ``dicoms`` and ``contourfiles`` and the table
``link.csv`` that assigns one to the other.
"""

import argparse
import sys

from nnunet_wsl.cli.jobs import add_jobs
from nnunet_wsl.cli.main import exit_code
from nnunet_wsl.conversion import ConversionSettings, convert_text

# Copies of those of SC-HF-I-1: the inner contours of SC-HF-I-6, which fit its images, are not within them.
MISTAKEN = "*SC-HF-I-6/o-contours/*"


def main() -> int:
    parser = argparse.ArgumentParser(description="Convert the Sunnybrook Cardiac Data to a raw nnU-Net dataset.")
    parser.add_argument("path", help="folder with dicoms, contourfiles and link.csv")
    parser.add_argument("--overlap", choices=("regions", "priority"), default="regions")
    parser.add_argument("--dataset", type=int, default=503, help="dataset id (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace the dataset if it exists")
    add_jobs(parser, "converted")
    args = parser.parse_args()
    convert_text(
        args.path,
        args.dataset,
        "Sunnybrook",
        exclude=[MISTAKEN],
        # Outer contours are drawn in one phase only: elsewhere the outer border is unknown, not absent.
        settings=ConversionSettings(missing="unknown", overlap=args.overlap),
        overwrite=args.overwrite,
        jobs=args.jobs,
    )
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
