"""``nnunet_wsl env``: the line that lets nnU-Net's commands find the trainers."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
from pathlib import Path

_LOG = logging.getLogger(__name__)

VARIABLE = "nnUNet_extTrainer"
PLUGIN_FOLDER = Path(__file__).parents[1] / "nnunet_plugin"

_LINES = {
    "sh": "export {variable}={value}",
    "fish": "set -gx {variable} {value}",
    "csh": "setenv {variable} {value}",
    "powershell": "$env:{variable} = {value}",
}
_DIALECTS = {"bash": "sh", "zsh": "sh", "dash": "sh", "ksh": "sh", "tcsh": "csh", "pwsh": "powershell"}


def trainer_folders() -> str:
    """Value of nnU-Net's variable: what is set already, and this package's folder of trainers."""
    folders = [f for f in os.environ.get(VARIABLE, "").split(os.pathsep) if f.strip()]
    for folder in folders:
        if not Path(folder).is_dir():
            _LOG.warning("%s names '%s', which is no folder: nnU-Net finds no trainer there.", VARIABLE, folder)
    if str(PLUGIN_FOLDER) not in folders:
        folders.append(str(PLUGIN_FOLDER))
    return os.pathsep.join(folders)


def shell_in_use() -> str:
    """Dialect of the user's login shell, one of the keys of the table of lines."""
    name = Path(os.environ.get("SHELL", "powershell" if os.name == "nt" else "sh")).stem
    return name if name in _LINES else _DIALECTS.get(name, "sh")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the arguments of ``nnunet_wsl env``."""
    parser = subparsers.add_parser(
        "env",
        help="print the line that lets nnUNetv2_train find WSLTrainer",
        description="Print the line that sets nnU-Net's variable for external trainers, for your login shell. "
        'In bash or zsh: eval "$(nnunet_wsl env)"',
    )
    parser.add_argument("--shell", choices=sorted(_LINES), help="instead of your login shell, $SHELL")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Print the line."""
    shell = args.shell or shell_in_use()
    value = trainer_folders()
    quoted = "'" + value.replace("'", "''") + "'" if shell == "powershell" else shlex.quote(value)
    print(_LINES[shell].format(variable=VARIABLE, value=quoted))
    return 0
