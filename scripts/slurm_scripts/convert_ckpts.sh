#!/usr/bin/env bash
# Convert downloaded checkpoints to transformers format.  sbatch convert_ckpts.sh, or bash convert_ckpts.sh.
#   family    family of the checkpoints                  (default: olmo1b)
#   steps     pre-training steps; main: released model (default: those of the paper)
#   tokenizer folder or Hub name of the tokenizer        (default: $base_dir/output/{family}_tokenizer)
#   dtype     float32, bfloat16 or float16               (default: float32)
#   base_dir  folder of output/                          (default: the repository)
#SBATCH --job-name=convert_ckpts
#SBATCH --cpus-per-task=4
#SBATCH --mem=32G
#SBATCH --time=04:00:00
set -euo pipefail

# The repository is above this file or, where it is Slurm's copy, above the submitted one or the folder of submission.
above() (cd "$1" && until [[ -e open_instruct/finetune.py ]]; do [[ $PWD != / ]] || exit 1; cd ..; done && pwd)
submitted() { scontrol show job "${SLURM_JOB_ID:-0}" 2> /dev/null | sed -n 's|^ *Command=\(.*/\)[^/]*\.sh.*|\1|p'; }
: "${repository:=$(above "$(dirname "${BASH_SOURCE[0]}")" || above "$(submitted)" \
  || above "${SLURM_SUBMIT_DIR:-.}" || above "${base_dir:-.}")}"
: "${repository:?is not above this script, the folder of submission or base_dir; set repository to its folder}"
: "${base_dir:=$repository}"
[[ $base_dir == /* ]] || base_dir=$PWD/$base_dir
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
