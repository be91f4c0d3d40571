"""finetune.py with weights sharded over processes on CPUs, which accelerate supports on accelerators only.

accelerate launch --config_file scripts/accelerate/fsdp.yaml --num_processes 2 tests/helpers/sharded_on_cpu.py …
Only `_prepare_backend` is replaced: it reports several accelerators connected by gloo.
"""

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType

from open_instruct import finetune
from open_instruct.common.cli import run
from open_instruct.training import train
from open_instruct.training.arguments import Args

PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)


def main(args: Args) -> None:
    make_accelerator = train.make_accelerator

    def make_and_print(*arguments):
        accelerator = make_accelerator(*arguments)
        accelerator.print(f"sharded by {accelerator.distributed_type}")
        return accelerator

    train.make_accelerator = make_and_print
    torch.distributed.init_process_group("gloo")
    finetune.main(args)


if __name__ == "__main__":
    run(main, Args)
