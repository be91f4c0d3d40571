"""Datasets of the Hub at pinned revisions. Datasets with a loading script are read from their Parquet copies."""

from functools import partial

from open_instruct.tasks.declarations import Split

GLUE = partial(Split, hub="nyu-mll/glue", revision="bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c")
PAWS = partial(Split, hub="google-research-datasets/paws", revision="161ece9501cf0a11f3e48bd356eaa82de46d6a09")
GPT3_NLI = partial(Split, hub="pietrolesci/gpt3_nli", revision="48d27a285f1919f3f7e6cd53b6a07fb13a238efb")
SCIQ = partial(Split, hub="allenai/sciq", revision="2c94ad3e1aafab77146f384e23536f97a4849815")
GSM8K = partial(Split, hub="openai/gsm8k", revision="e53f048856ff4f594e959d75785d2c2d37b678ee")
TWEET_QA = partial(Split, hub="ucsbnlp/tweet_qa", revision="4271bbdba0deb6570abdfe9766785cfd305876de")
# A commit of refs/convert/parquet: the Hub's Parquet copy of a dataset with a loading script.
SOCIAL_I_QA = partial(Split, hub="allenai/social_i_qa", revision="537a2ec8ec565adc0b70b70752893e59e024df26")
XSUM = partial(Split, hub="EdinburghNLP/xsum", revision="7d4d486c2f8ef850b1a11aead99b894ff3dd7da9")
CNN = partial(Split, hub="abisee/cnn_dailymail", revision="96df5e686bee6baa90b8bee7c28b81fa3fa6223d")
TULU = partial(Split, hub="allenai/tulu-v2-sft-mixture", revision="6248b175d2ccb5ec7c4aeb22e6d8ee3b21b2c752")
SETFIT_STSB = partial(Split, hub="SetFit/stsb", revision="77bd85cf73a244d4503e477ce6de81196187839f")
# Without a pinned commit; the sidecar of the formatted file records the commit that was read.
XLSUM = partial(Split, hub="csebuetnlp/xlsum", revision="refs/convert/parquet")
SETFIT_QQP = partial(Split, hub="SetFit/qqp", revision="main")
# Ranked classification tasks.
ARC = partial(Split, hub="allenai/ai2_arc", revision="210d026faf9955653af8916fad021475a3f00453")
BOOLQ = partial(Split, hub="google/boolq", revision="35b264d03638db9f4ce671b711558bf7ff0f80d5")
COMMONSENSE_QA = partial(Split, hub="tau/commonsense_qa", revision="94630fe30dad47192a8546eb75f094926d47e155")
HELLASWAG = partial(Split, hub="Rowan/hellaswag", revision="218ec52e09a7e7462a5400043bb9a69a41d06b76")
MMLU = partial(Split, hub="cais/mmlu", revision="c30699e8356da336a370243923dbaf21066bb9fe")
OPENBOOKQA = partial(Split, hub="allenai/openbookqa", revision="388097ea7776314e93a529163e0fea805b8a6454")
SUPER_GLUE = partial(Split, hub="aps/super_glue", revision="3de24cf8022e94f4ee4b9d55a6f539891524d646")
WINOGRANDE = partial(Split, hub="allenai/winogrande", revision="01e74176c63542e6b0bcb004dcdea22d94fb67b5")
# A commit of refs/convert/parquet.
PIQA = partial(Split, hub="ybisk/piqa", revision="142c51238b3ca2bc61e9a075913871b8b600e8e1")
# Without a pinned commit: the Parquet copies of datasets with a loading script.
HEAD_QA = partial(Split, hub="EleutherAI/headqa", revision="refs/convert/parquet")
LOGIQA = partial(Split, hub="EleutherAI/logiqa", revision="refs/convert/parquet")
MATH_QA = partial(Split, hub="allenai/math_qa", revision="refs/convert/parquet")
