"""lm-eval's HFLM asked for the log-likelihoods of given texts: the peer of several benchmarks.

It comes by `pip install lm-eval==0.4.13`, which is not among the project's requirements.
"""

from collections.abc import Sequence
from typing import Any

from olmo_eval.instances import Instance
from olmo_eval.ranking import Prediction
from open_instruct.common.errors import UserError


def peer(model: Any, tokenizer: Any, *, batch_size: int) -> Any:
    """HFLM around a loaded model.  Raises UserError where lm-eval is not installed."""
    try:
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise UserError("lm-eval is not installed; `.venv/bin/python -m pip install lm-eval==0.4.13`") from error
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, device=str(model.device), max_length=2048)


def log_likelihoods(lm: Any, instances: Sequence[Instance], *, unconditioned: str | None = None) -> list[list[float]]:
    """The log-likelihood of every continuation of every instance after its context, in nats.

    Those after the context `unconditioned`, where there is one, are asked for too, and not returned.
    """
    from lm_eval.api.instance import Instance as Request

    pairs = [pair for i in instances for pair in zip(i.item.contexts, i.item.continuations, strict=True)]
    if unconditioned is not None:
        pairs += [(unconditioned, text) for i in instances for text in i.item.continuations]
    requests = [Request("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
    found = iter(lm.loglikelihood(requests, disable_tqdm=True))
    return [[next(found)[0] for _ in instance.item.continuations] for instance in instances]


def agreement(predictions: Sequence[Prediction], theirs: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Largest difference of a log-likelihood, in nats, and the number of instances whose likeliest choice differs."""
    sums = [[output["sum_logits"] for output in prediction.outputs] for prediction in predictions]
    both = list(zip(sums, theirs, strict=True))
    difference = max(abs(a - b) for one, other in both for a, b in zip(one, other, strict=True))
    return difference, sum(one.index(max(one)) != other.index(max(other)) for one, other in both)
