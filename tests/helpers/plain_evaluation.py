"""Log-likelihoods and greedy texts by transformers' forward pass of one text at a time: the reference of the engine."""

import torch


def plain_score(model, context, continuation):
    """Log-likelihood and is_greedy of one continuation, by one unpadded forward pass."""
    with torch.no_grad():
        log_probs = model(torch.tensor([context + continuation])).logits[0].log_softmax(-1)
    rows = log_probs[len(context) - 1 : -1]
    greedy = rows.argmax(-1).tolist() == continuation
    return rows.gather(-1, torch.tensor(continuation)[:, None]).sum().item(), greedy


def decode_greedily(model, prompt, max_new_tokens, endings):
    """Greedy decoding without batch, padding or cache."""
    ids = list(prompt)
    for _ in range(max_new_tokens):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in endings:
            break
    return ids[len(prompt) :]
