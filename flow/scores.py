"""How much each weight matters: Wanda's score, a pure function of weights and input norms."""

from __future__ import annotations

from torch import Tensor

__all__ = ["wanda_scores"]


def wanda_scores(weight: Tensor, input_norms: Tensor) -> Tensor:
    """Importance of each weight, ``|W_ij| * ||x_j||_2`` (Sun et al., arXiv 2306.11695, equation 1; FLOW takes it over).

    Parameters
    ----------
    weight : Tensor
        Weights, [outputs, inputs], any floating dtype.
    input_norms : Tensor
        L2 norm of each input feature over all calibration tokens, [inputs].

    Returns
    -------
    Tensor
        Scores, [outputs, inputs], float32, none negative.

    Raises
    ------
    ValueError
        If the shapes do not belong together.
    """
    if weight.ndim != 2 or input_norms.shape != weight.shape[1:]:
        raise ValueError(
            f"scores need a weight [outputs, inputs] and one norm for each input, "
            f"not shapes {list(weight.shape)} and {list(input_norms.shape)}"
        )
    return weight.detach().abs().float() * input_norms.float()
