"""Soft-tissue sarcoma: PET or T1-weighted MR series with the tumour contours of the RTSTRUCT files.

Data: IBSI validation set made from the TCIA collection Soft-tissue-Sarcoma, CC BY 3.0. Cite Vallieres et al.,
https://doi.org/10.7937/K9/TCIA.2015.7GO2GSKS and https://doi.org/10.1088/0031-9155/60/14/5471, and Clark et al.,
https://doi.org/10.1007/s10278-013-9622-7.
"""

import argparse
import sys

from nnunet_wsl.cli.jobs import add_jobs
from nnunet_wsl.cli.main import exit_code
from nnunet_wsl.conversion import convert_rtstruct

NAMES = {"PT": "SoftTissueSarcomaPET", "MR": "SoftTissueSarcomaMR"}


def main() -> int:
    parser = argparse.ArgumentParser(description="Convert the soft-tissue sarcoma data to a raw nnU-Net dataset.")
    parser.add_argument("path", help="folder with STS_001, STS_002, ...")
    parser.add_argument("--modality", choices=sorted(NAMES), default="PT")
    parser.add_argument("--dataset", type=int, help="dataset id (default: 501 for PT, 502 for MR)")
    parser.add_argument("--overwrite", action="store_true", help="replace the dataset if it exists")
    add_jobs(parser, "converted")
    args = parser.parse_args()
    convert_rtstruct(
        args.path,
        args.dataset or {"PT": 501, "MR": 502}[args.modality],
        NAMES[args.modality],
        rois={"tumour": "GTV_Mass.*"},
        modality=args.modality,
        overwrite=args.overwrite,
        jobs=args.jobs,
    )
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
