"""How much each weight matters: pure functions of the weights and of what was seen of the layer's inputs."""

from __future__ import annotations

from torch import Tensor

from flexcim_flow.layer.rule import Need, ScoreRule

__all__ = [
    "MAGNITUDE",
    "OBS",
    "RIA",
    "RIA_POWER",
    "WANDA",
    "magnitude_scores",
    "obs_scores",
    "ria_scores",
    "wanda_scores",
]

RIA_POWER = 0.5
"""a, the power of the input norm in `ria_scores`; the value that its authors recommend."""


def magnitude_scores(weight: Tensor) -> Tensor:
    """Importance of each weight, ``|W_ij|``, [outputs, inputs], float32."""
    return weight.detach().abs().float()


def wanda_scores(weight: Tensor, input_norms: Tensor) -> Tensor:
    """Importance of each weight, ``|W_ij| * ||x_j||_2`` (Sun et al., arXiv 2306.11695, equation 1).

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
    _check_shapes(weight, input_norms)
    return weight.detach().abs().float() * input_norms.float()


def ria_scores(weight: Tensor, input_norms: Tensor) -> Tensor:
    """Relative importance and activations (Zhang et al., "Plug-and-Play", ICLR 2024):
    ``(|W_ij| / sum_k |W_kj| + |W_ij| / sum_k |W_ik|) * ||x_j||_2 ** a``.

    A weight counts by its share of its input's and of its output's weights, so that no input or output loses all.

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
    _check_shapes(weight, input_norms)
    magnitude = weight.detach().abs().float()
    # A row or column of zeros has shares of 0, whatever its sum is replaced by.
    of_input = magnitude / magnitude.sum(dim=0, keepdim=True).clamp(min=1e-30)
    of_output = magnitude / magnitude.sum(dim=1, keepdim=True).clamp(min=1e-30)
    return (of_input + of_output) * input_norms.float() ** RIA_POWER


def obs_scores(weight: Tensor, inverse_diagonal: Tensor) -> Tensor:
    """What dropping one weight costs when all others make up for it, ``W_ij ** 2 / [H^-1]_jj`` (Hassibi, Stork, 1993).

    Parameters
    ----------
    weight : Tensor
        Weights, [outputs, inputs], any floating dtype.
    inverse_diagonal : Tensor
        Diagonal of the inverse second moments of the inputs, [inputs], positive.

    Returns
    -------
    Tensor
        Scores, [outputs, inputs], float32, none negative.

    Raises
    ------
    ValueError
        If the shapes do not belong together.
    """
    _check_shapes(weight, inverse_diagonal)
    return weight.detach().float().square() / inverse_diagonal.float()


def _check_shapes(weight: Tensor, of_inputs: Tensor) -> None:
    if weight.ndim != 2 or of_inputs.shape != weight.shape[1:]:
        raise ValueError(
            f"scores need a weight [outputs, inputs] and one number for each input, "
            f"not shapes {list(weight.shape)} and {list(of_inputs.shape)}"
        )


MAGNITUDE = ScoreRule(magnitude_scores)
WANDA = ScoreRule(wanda_scores, needs=(Need.INPUT_NORMS,))
RIA = ScoreRule(ria_scores, needs=(Need.INPUT_NORMS,))
OBS = ScoreRule(obs_scores, needs=(Need.INVERSE_DIAGONAL,))
"""With an update, SparseGPT's sweep, whose own score this is, chooses the masks (`flexcim_flow.layer.sweep`)."""
