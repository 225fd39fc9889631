"""P2: the moving-average state update, gather, blend and scatter in one pass."""

import torch
from torch import Tensor

from xrisk_ext.ops.surrogates import as_scalar, check_devices, check_tensor


def moving_average_update_(
    state: Tensor, index: Tensor, values: Tensor, gamma: float | Tensor, *, log: bool = False
) -> Tensor:
    """Updates rows of ``state`` in place and returns what was stored for each entry.

    Linear: ``state[index_b] <- (1 - gamma_b) state[index_b] + gamma_b values_b``. With ``log`` the
    state and the values are logarithms and the same average is taken of their exponentials, without
    leaving the log domain: it cannot overflow.

    * First touch: a row that holds NaN (linear) or -inf (log) is assigned the value.
    * Duplicate ids: each entry reads the old row; the mean of their blends is stored and returned
      for all of them. The result does not depend on the order or the number of threads.
    * A blend that is not finite, or does not fit the state's dtype, is returned but never stored
      (with ``log``, -inf is the logarithm of zero and is stored).

    Not differentiable.

    Args:
        state: ``[N]`` or ``[N, C]``, float32 or float64, contiguous.
        index: ``[B]``, int64 or int32, each in ``[0, N)``.
        values: the new observations, ``[B]`` or ``[B, C]``, any floating dtype.
        gamma: the weight of the new observation, in ``[0, 1]``: a float, a 0-dim tensor, or one
            per entry ``[B]``.
        log: whether state and values are logarithms.

    Returns:
        ``[B]`` or ``[B, C]``, in the dtype of the state.

    Raises:
        IndexError: an id outside ``[0, N)``.
        ValueError: a shape, device or gamma that is not as above.
        TypeError: a dtype that is not as above, or an argument that is not a tensor.

    Where it raises, nothing has been written.

    Source: the estimator u of Wang & Yang, SOX (ICML 2022); per-entry gamma: Wei et al., SCENT.
    """
    check_tensor(state, "state")
    check_tensor(index, "index")
    check_tensor(values, "values")
    check_devices(state, "state", index=index, values=values)
    return torch.ops.xrisk_ext.moving_average_update_(  # type: ignore[no-any-return]
        state, index, values.detach(), as_scalar(gamma, "gamma", state), log
    )


@torch.library.register_fake("xrisk_ext::moving_average_update_")
def _(state: Tensor, index: Tensor, values: Tensor, gamma: Tensor, log: bool) -> Tensor:
    return state.new_empty(values.shape)
