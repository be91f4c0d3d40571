#!/usr/bin/env bash
# Fine-tune one checkpoint on one train set.  sbatch fine_tune_olmo.sh, or bash fine_tune_olmo.sh.
#   data_file_name   train set, in $data_dir/{data_file_name}.jsonl                  (required)
#   ckpt             pre-training step                                               (required)
#   family           family of the checkpoint                                        (default: olmo1b)
#   model_name       folder of the model          (default: output/{family}_tf_ckpts/checkpoint-{ckpt})
#   lr, epoch        recipe                                                          (default: 2e-6, 3)
#   NUM_GPUS         processes, one a GPU                                            (default: 1)
#   TOTAL_BATCH_SIZE examples per optimiser step, over all processes                 (default: 8)
#   mixed_precision  bf16, fp16 or no                                                (default: bf16)
# Further arguments go to finetune.py, e.g. bash fine_tune_olmo.sh --max_train_rows 100
#SBATCH --job-name=fine_tune_olmo
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=08:00:00
set -euo pipefail

: "${repository:=${SLURM_SUBMIT_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}}"
: "${base_dir:=$repository}"
: "${data_dir:=$base_dir/data}"
: "${data_file_name:?set data_file_name to a train set, e.g. data_file_name=socialiqa ckpt=592000 bash fine_tune_olmo.sh}"
: "${ckpt:?set ckpt to a pre-training step, e.g. data_file_name=socialiqa ckpt=592000 bash fine_tune_olmo.sh}"
: "${family:=olmo1b}"
: "${model_name:=$base_dir/output/${family}_tf_ckpts/checkpoint-$ckpt}"
export base_dir data_dir

cd "$repository"
accelerate launch --num_processes "${NUM_GPUS:-1}" --num_machines 1 --dynamo_backend no \
  --mixed_precision "${mixed_precision:-bf16}" \
  open_instruct/finetune.py \
  --model_name_or_path "$model_name" \
  --train_file "$data_dir/$data_file_name.jsonl" \
  --learning_rate "${lr:-2e-6}" \
  --num_train_epochs "${epoch:-3}" \
  --total_batch_size "${TOTAL_BATCH_SIZE:-8}" \
  --mixed_precision "${mixed_precision:-bf16}" \
  "$@"
