"""The lines that depend on the rank, in two processes. nnU-Net itself runs DDP on CUDA only."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel
from training.test_network import R, plain_unet

from nnunet_wsl.training.network import RelevanceHead
from nnunet_wsl.training.trainer import WSLTrainer

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


class Recorder:
    """Among nnU-Net's loggers, where its wandb logger would be."""

    def __init__(self):
        self.values = {}

    def log(self, key, value, step):
        self.values[f"{key} {step}"] = value


class Averages:
    """In the place of the loss: what it averaged over one rank's batches."""

    def __init__(self, rank):
        self.values = torch.tensor([1.0, -0.5, 0.5, 1.5]) * (rank + 1)

    def take_averages(self):
        return self.values.numpy()


def work(rank, port, folder):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    try:
        log_differences(rank, folder)
        train_step(rank, folder)
    finally:
        dist.destroy_process_group()


def log_differences(rank, folder):
    """The trainer as nnU-Net sets it up in DDP, without CUDA: only what logging needs."""
    preprocessed = Path(os.environ["nnUNet_preprocessed"]) / "Dataset801_Tiny"
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text()) | {"continue_training": False}
    dataset_json = json.loads((preprocessed / "dataset.json").read_text())
    is_initialized, dist.is_initialized = dist.is_initialized, lambda: False  # else nnU-Net picks a CUDA device
    try:
        trainer = WSLTrainer(plans, "2d", 0, dataset_json, torch.device("cpu"))
    finally:
        dist.is_initialized = is_initialized
    trainer.is_ddp, trainer.local_rank = True, rank
    trainer.loss = Averages(rank)
    recorder = Recorder()
    trainer.logger.loggers.append(recorder)
    trainer._log_differences("train")
    (Path(folder) / f"recorded_{rank}.json").write_text(json.dumps(recorder.values))
    logged = trainer.logger.local_logger.my_fantastic_logging
    (Path(folder) / f"logged_{rank}.json").write_text(json.dumps({k: v for k, v in logged.items() if v}))


def train_step(rank, folder):
    torch.manual_seed(rank)  # DDP must make both ranks' relevance rows those of rank 0
    network = plain_unet()
    head = RelevanceHead(network, R)
    parallel = DistributedDataParallel(nn.SyncBatchNorm.convert_sync_batchnorm(network))
    optimizer = torch.optim.SGD(parallel.parameters(), 0.1)
    outputs = parallel(torch.randn(2, 1, 12, 20))
    sum(o.square().mean() for o in outputs).backward()
    optimizer.step()
    torch.save((parallel.module.state_dict(), head.state_dict()), Path(folder) / f"network_{rank}.pth")


def test_two_ranks_log_and_learn_the_same(tiny, tmp_path):
    tiny()
    multiprocessing.spawn(work, args=(find_free_port(), str(tmp_path)), nprocs=2)
    logged = [json.loads((tmp_path / f"logged_{rank}.json").read_text()) for rank in range(2)]
    assert logged[0] == logged[1]
    assert logged[0]["train_first_difference"] == [1.5]
    assert logged[0]["train_second_difference"] == [-0.75]
    assert logged[0]["train_sub_differences"] == [[0.75, 2.25]]
    # nnU-Net's other loggers get one number per object.
    recorded = json.loads((tmp_path / "recorded_0.json").read_text())
    assert recorded == {
        "train_first_difference 0": 1.5,
        "train_second_difference 0": -0.75,
        "train_sub_differences/class_1 0": 0.75,
        "train_sub_differences/class_2 0": 2.25,
    }
    (weights, rows), (other_weights, other_rows) = (torch.load(tmp_path / f"network_{rank}.pth") for rank in range(2))
    assert weights.keys() == plain_unet().state_dict().keys()
    for name, value in {**weights, **rows}.items():
        assert torch.equal(value, {**other_weights, **other_rows}[name]), name


def find_free_port():
    from nnunetv2.run.run_training import find_free_network_port

    return find_free_network_port()


def test_only_rank_zero_writes_checkpoints(tiny, monkeypatch):
    folder = tiny()
    preprocessed = folder / "nnUNet_preprocessed" / "Dataset801_Tiny"
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text()) | {"continue_training": False}
    dataset_json = json.loads((preprocessed / "dataset.json").read_text())
    trainer = WSLTrainer(plans, "2d", 0, dataset_json, torch.device("cpu"))
    trainer.initialize()
    trainer.local_rank = 1
    trainer.save_checkpoint(str(folder / "checkpoint.pth"))
    assert not list(folder.glob("checkpoint*"))
    trainer.local_rank = 0
    trainer.save_checkpoint(str(folder / "checkpoint.pth"))
    assert [p.name for p in folder.glob("checkpoint*")] == ["checkpoint.pth"]
    trainer.disable_checkpointing = True
    (folder / "checkpoint.pth").unlink()
    trainer.save_checkpoint(str(folder / "checkpoint.pth"))
    assert not list(folder.glob("checkpoint*"))
