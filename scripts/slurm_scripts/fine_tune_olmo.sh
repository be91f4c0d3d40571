#!/usr/bin/env bash
# Fine-tune one checkpoint on one train set.  sbatch fine_tune_olmo.sh, or bash fine_tune_olmo.sh.
#   data_file_name   train set, in $data_dir/{data_file_name}.jsonl                  (required)
#   ckpt             pre-training step, or main                                      (required)
#   family           family of the checkpoint                                        (default: olmo1b)
#   model_name       folder of the model, or its name on the Hub
#                                      (default: $base_dir/output/{family}_tf_ckpts/checkpoint-{ckpt}, or /main)
#   lr, epoch        recipe                                         (default: as registered for the train set)
#   NUM_GPUS         processes on each node, one a GPU            (default: the GPUs that Slurm allocated, else 1)
#   TOTAL_BATCH_SIZE examples per optimiser step, over all processes                 (default: 8)
#   mixed_precision  bf16, fp16 or no                                                (default: bf16)
#   accelerate_config  parallelism: a file of scripts/accelerate
#                                                       (default: ddp.yaml, or one.yaml for one process)
#   base_dir         folder of output/                                               (default: the repository)
#   data_dir         folder of the formatted data                                    (default: $base_dir/data)
# Further arguments go to finetune.py, e.g. bash fine_tune_olmo.sh --max_train_rows 100
# Several nodes: sbatch --nodes=2 --gpus-per-node=4 fine_tune_olmo.sh
# Five minutes before the time limit it saves its state and requeues itself. Ctrl-C and SIGTERM make it save and exit
# with code 85: started again, it resumes.
#SBATCH --job-name=fine_tune_olmo
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=08:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

# The repository is above this file or, where it is Slurm's copy, above the submitted one or the folder of submission.
above() (cd "$1" && until [[ -e open_instruct/finetune.py ]]; do [[ $PWD != / ]] || exit 1; cd ..; done && pwd)
submitted() { scontrol show job "${SLURM_JOB_ID:-0}" 2> /dev/null | sed -n 's|^ *Command=\(.*/\)[^/]*\.sh.*|\1|p'; }
: "${repository:=$(above "$(dirname "${BASH_SOURCE[0]}")" || above "$(submitted)" \
  || above "${SLURM_SUBMIT_DIR:-.}" || above "${base_dir:-.}")}"
: "${repository:?is not above this script, the folder of submission or base_dir; set repository to its folder}"
: "${base_dir:=$repository}"
[[ $base_dir == /* ]] || base_dir=$PWD/$base_dir
: "${data_dir:=$base_dir/data}"
[[ $data_dir == /* ]] || data_dir=$PWD/$data_dir
: "${data_file_name:?set data_file_name to a train set, e.g. data_file_name=socialiqa ckpt=592000 bash fine_tune_olmo.sh}"
: "${ckpt:?set ckpt to a pre-training step, e.g. data_file_name=socialiqa ckpt=592000 bash fine_tune_olmo.sh}"
: "${family:=olmo1b}"
: "${mixed_precision:=bf16}"
: "${NUM_GPUS:=${SLURM_GPUS_ON_NODE:-1}}"
case $ckpt in main | -1) folder=main ;; *) folder=checkpoint-$ckpt ;; esac
: "${model_name:=$base_dir/output/${family}_tf_ckpts/$folder}"
train_file=$data_dir/$data_file_name.jsonl
num_nodes=${SLURM_NNODES:-1}
num_processes=$((num_nodes * NUM_GPUS))
: "${accelerate_config:=scripts/accelerate/$( ((num_processes > 1)) && echo ddp || echo one).yaml}"
export base_dir data_dir
cd "$repository"

launch=(accelerate launch)
# Quiet: after an error of finetune.py no traceback of the launcher's own.
options=(--quiet --config_file "$accelerate_config" --mixed_precision "$mixed_precision" --dynamo_backend no
  --num_processes "$num_processes" --num_machines "$num_nodes")
if ((num_nodes > 1)); then
  # shellcheck disable=SC2016  # expanded on each node
  launch=(srun --nodes="$num_nodes" --ntasks-per-node=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}"
    bash -c 'exec accelerate launch --machine_rank "$SLURM_NODEID" "$@"' fine_tune_olmo)
  # This script runs on the first node, to which the others connect; the port differs from job to job.
  options+=(--main_process_ip "${MASTER_ADDR:-$(hostname)}"
    --main_process_port "${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 10000))}")
fi

# Launchers do not pass signals on to every process of every node; a file on the shared disk reaches all.
stop_file=$base_dir/output/stop-${SLURM_JOB_ID:-$$}
saved_and_stopped=85 # SAVED_AND_STOPPED of open_instruct/common/errors.py
is_at_time_limit=
mkdir -p "$base_dir/output"
rm -f "$stop_file"
trap 'touch "$stop_file"' INT TERM
trap 'is_at_time_limit=yes; touch "$stop_file"' USR1

"${launch[@]}" "${options[@]}" open_instruct/finetune.py \
  --model_name_or_path "$model_name" \
  --train_file "$train_file" \
  ${lr:+--learning_rate "$lr"} \
  ${epoch:+--num_train_epochs "$epoch"} \
  --total_batch_size "${TOTAL_BATCH_SIZE:-8}" \
  --mixed_precision "$mixed_precision" \
  --stop_file "$stop_file" \
  "$@" &
training=$!
while :; do
  status=0
  wait "$training" || status=$?
  # A trapped signal ends `wait`, not the training.
  kill -0 "$training" 2> /dev/null || break
done

# Launchers replace the exit code; finetune.py writes into the file once it has saved its state.
if [[ -s $stop_file ]]; then status=$saved_and_stopped; fi
rm -f "$stop_file"
if [[ $is_at_time_limit ]] && ((status == saved_and_stopped && ${SLURM_RESTART_COUNT:-0} < 20)); then
  echo "saved before the time limit: job $SLURM_JOB_ID is requeued, to resume where it stopped"
  # Slurm ends this script; it must not exit by itself before that.
  trap '' TERM
  if scontrol requeue "$SLURM_JOB_ID"; then sleep 60; fi
  echo "error: not requeued; submit it again, it resumes where it stopped" >&2
fi
exit "$status"
