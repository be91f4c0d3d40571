"""The two protocols: every difference between the paper's procedure and this project's default."""

from open_instruct.tasks.declarations import Protocol

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
            end_of_chat=None,
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
            end_of_chat="|||IP_ADDRESS|||",
            overlap="keep",
        ),
    )
}
