#!/usr/bin/env bash
# Convert downloaded checkpoints to transformers format.  sbatch convert_ckpts.sh, or bash convert_ckpts.sh.
#   family    family of the checkpoints                  (default: olmo1b)
#   steps     pre-training steps; main: released model (default: those of the paper)
#   tokenizer folder or Hub name of the tokenizer        (default: $base_dir/output/{family}_tokenizer)
#   dtype     float32, bfloat16 or float16               (default: float32)
#SBATCH --job-name=convert_ckpts
#SBATCH --cpus-per-task=4
#SBATCH --mem=32G
#SBATCH --time=04:00:00
set -euo pipefail

: "${repository:=${SLURM_SUBMIT_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}}"
: "${base_dir:=$repository}"
: "${family:=olmo1b}"
: "${steps:=1000 18000 342000 424000 505000 592000 738000 main}"
: "${tokenizer:=$base_dir/output/${family}_tokenizer}"
: "${dtype:=float32}"
export base_dir

cd "$repository"
for step in $steps; do
  python open_instruct/olmo_hf/convert_olmo_to_tf.py \
    --family "$family" --step "$step" --tokenizer_name_or_path "$tokenizer" --dtype "$dtype" "$@"
done
