"""Builds modules whose weights are about to be loaded."""

from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode


class SkipRandomInit(TorchFunctionMode):
    """Within this context, random initialisation is left out: weights hold arbitrary numbers.

    Drawing the weights of a large model takes many times longer than loading them. Only for
    modules that :func:`~owlkit.encoders.hub.load_exactly` fills afterwards. The random state stays
    as it was.
    """

    # By name, because the same function exists on tensors, in torch.nn.init and, wrapped, in
    # transformers: drawing, and the arithmetic that shapes what was drawn.
    _SKIPPED = frozenset(
        {"uniform_", "normal_", "kaiming_uniform_", "erfinv_", "mul_", "add_", "clamp_"}
    )

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Leaves parameters alone where they would be drawn at random."""
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in self._SKIPPED:
            tensor = args[0] if args else kwargs["tensor"]
            if isinstance(tensor, nn.Parameter):
                return tensor
        return func(*args, **kwargs)
