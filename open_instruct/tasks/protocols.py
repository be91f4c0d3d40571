"""The two protocols: every difference between the paper's procedure and this project's default."""

from open_instruct.tasks.declarations import Protocol
from open_instruct.tasks.instruction import EVAL_SETS as LLMBAR

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="corrected",
            exemplars="train",
            label_scores="whole_label",
            space="completion",
            splits="labelled",
            answer="scored_label",
            reported="mean",
            after_exemplar="\n\n",
            end_of_chat=None,
            gold_in_prompt=frozenset(),
            overlap="drop",
        ),
        Protocol(
            name="paper",
            exemplars="first_items",
            label_scores="sub_tokens",
            space="prompt",
            splits="paper",
            answer="substring",
            reported="midpoint",
            after_exemplar="\n",
            end_of_chat="|||IP_ADDRESS|||",
            gold_in_prompt=frozenset(eval_set.name for eval_set in LLMBAR),
            overlap="keep",
        ),
    )
}
