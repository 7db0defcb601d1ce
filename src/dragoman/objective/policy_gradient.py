"""PPO's clipped policy gradient with a dual clip, on log-probs of sampled tokens."""

from __future__ import annotations

import torch

from dragoman.config import MethodConfig
from dragoman.objective.output import LossOutput
from dragoman.objective.scored import Scored, needed
from dragoman.observe import Metrics, Ratio


def policy_gradient(scored: Scored, settings: MethodConfig) -> LossOutput:
    """Sum over tokens of `weight` times

        r_i = exp(clamp(logp_i - behaviour_i, ±log_ratio_clamp))
        l_i = -min(r_i A_i, clip(r_i, 1 - clip_low, 1 + clip_high) A_i)
        l_i = min(l_i, -dual_clip A_i)                         where A_i < 0

    At r = 1 its gradient is that of `-(weight * credit * logp).sum()`. Log-probs and credits in nats, in
    float32. Sources: Schulman et al. 2017 (arXiv 1707.06347, equation 7); dual clip: Ye et al. 2020
    (arXiv 1912.09729, equation 4); asymmetric clip: DAPO (arXiv 2503.14476).
    """
    bound = settings.log_ratio_clamp
    credit_N = needed(scored.credit, "credit")
    log_ratio = scored.logp - needed(scored.behaviour_logp, "behaviour_logp")
    ratio = log_ratio.clamp(-bound, bound).exp()
    clipped = ratio.clamp(1.0 - settings.clip_low, 1.0 + settings.clip_high)
    loss = -torch.minimum(ratio * credit_N, clipped * credit_N)
    if settings.dual_clip is not None:
        loss = torch.where(credit_N < 0, torch.minimum(loss, -settings.dual_clip * credit_N), loss)
    num_tokens = len(scored.logp)
    with torch.no_grad():
        num_clipped = int((ratio * credit_N > clipped * credit_N).sum())
        num_bounded = int((log_ratio.abs() > bound).sum())
    return LossOutput(
        total=(scored.weight * loss).sum(),
        metrics=Metrics(
            {
                "clip_rate": Ratio(num_clipped, num_tokens),
                "log_ratio_clamp_rate": Ratio(num_bounded, num_tokens),
                "policy_ratio": Ratio(float(ratio.detach().sum()), num_tokens),
                "policy_shift": Ratio(float(log_ratio.detach().abs().sum()), num_tokens),
            }
        ),
    )
