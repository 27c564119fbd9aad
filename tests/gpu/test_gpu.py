"""What only a GPU can show: bf16 training under ZeRO-3 with the kernel that `auto` picks."""

import pytest
import torch

from medclm.data.testing import write_small_corpus
from train.main import main

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]


def test_a_short_bf16_run_on_one_gpu(tmp_path, pytestconfig):
    corpus = write_small_corpus(tmp_path / "corpus", images=40)
    flags = [
        f"--data.corpus={corpus}",
        f"--run.output_dir={tmp_path}",
        "--train.steps=5",
        "--data.min_side=0",
        "--tracking.uri=off",
    ]
    flags += ["--train.global_batch_size=8", "--train.micro_batch_size=4", "--train.precision=bf16"]
    assert main(["--deepspeed", str(pytestconfig.rootpath / "ds_configs" / "zero3.json"), *flags]) == 0
    assert (tmp_path / "demo" / "export" / "model.safetensors").is_file()
