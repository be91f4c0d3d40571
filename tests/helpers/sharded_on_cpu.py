"""finetune.py, its weights shared out over processes on CPUs: accelerate does that on accelerators only.

accelerate launch --config_file scripts/accelerate/fsdp.yaml --num_processes 2 tests/helpers/sharded_on_cpu.py …
The one thing that is pretended is what `_prepare_backend` finds: a device like any other, over gloo.
"""

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType

from open_instruct import finetune
from open_instruct.common.cli import run
from open_instruct.training.arguments import Args

PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)


def main(args: Args) -> None:
    make_accelerator = finetune.make_accelerator

    def told(*given):
        accelerator = make_accelerator(*given)
        accelerator.print(f"shared out by {accelerator.distributed_type}")
        return accelerator

    finetune.make_accelerator = told
    torch.distributed.init_process_group("gloo")
    finetune.main(args)


if __name__ == "__main__":
    run(main, Args)
