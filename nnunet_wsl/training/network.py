"""The relevance head: more rows in the output layers of a stock nnU-Net network.

Every output layer of nnU-Net's networks is linear in the features before it, so S + R outputs there are a
segmentation head (the first S rows) plus a relevance head (the last R). The network is built for S outputs, exactly
as stock nnU-Net does, and its output layers are widened. Its ``state_dict`` stays that of the stock network: the
relevance rows are saved and loaded through the :class:`RelevanceHead`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def output_layers(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return name and module of the layers whose outputs a network returns.

    Parameters
    ----------
    network : nn.Module
        A network of nnU-Net: a U-Net (``decoder.seg_layers``) or Primus (``up_projection.decode``).

    Raises
    ------
    NotImplementedError
        If the network is of neither kind.
    """
    modules = dict(network.named_modules())
    if "decoder.seg_layers" in modules:
        return [(f"decoder.seg_layers.{name}", m) for name, m in modules["decoder.seg_layers"].named_children()]
    if "up_projection.decode" in modules:
        name, last = list(modules["up_projection.decode"].named_children())[-1]
        return [(f"up_projection.decode.{name}", last)]
    raise NotImplementedError(
        f"Relevance supervision cannot find the output layers of {type(network).__name__}: it knows networks with "
        "'decoder.seg_layers' (nnU-Net's U-Nets) and 'up_projection.decode' (Primus). Train this network with its "
        "own trainer, or use a plan with one of nnU-Net's U-Nets."
    )


class RelevanceHead:
    """The relevance rows of a network's output layers, and the split of its outputs.

    Widens the output layers in place and registers hooks, so that the network returns a list: the segmentation
    logits of every level, then the relevance logits of every level, both at the level's resolution.

    Parameters
    ----------
    network : nn.Module
        A stock network with S outputs.
    num_relevance : int
        R, the number of relevance maps.
    """

    def __init__(self, network: nn.Module, num_relevance: int) -> None:
        self.layers = dict(output_layers(network))
        self.num_relevance = num_relevance
        self.num_segmentation = 0
        self.enabled = True
        for layer in self.layers.values():
            self._widen(layer)
        network.register_forward_hook(self._split)

    def _widen(self, layer: nn.Module) -> None:
        if not isinstance(layer, _PLAIN + _TRANSPOSED) or layer.groups != 1:
            raise NotImplementedError(
                f"Relevance supervision can widen convolutions with one group, not {layer}. Train this network "
                "with its own trainer."
            )
        self.num_segmentation = layer.out_channels
        # What is drawn after this stays what it would be without the head: one seed, one stock network and training.
        with torch.random.fork_rng(devices=[]):
            wide = type(layer)(
                layer.in_channels,
                layer.out_channels + self.num_relevance,
                layer.kernel_size,  # type: ignore[arg-type]
                bias=layer.bias is not None,
            )
        for name, parameter in wide.named_parameters():
            # Relevance rows start as torch initialises them, segmentation rows as nnU-Net did.
            with torch.no_grad():
                self._rows(layer, name, parameter, "segmentation").copy_(layer.get_parameter(name))
            setattr(layer, name, nn.Parameter(parameter.detach().to(layer.get_parameter(name))))
        layer.out_channels += self.num_relevance
        self._keep_state_stock(layer)

    def _rows(self, layer: nn.Module, name: str, parameter: torch.Tensor, head: str) -> torch.Tensor:
        # A transposed convolution keeps its outputs in dimension 1 of the weight.
        dim = 1 if name == "weight" and isinstance(layer, _TRANSPOSED) else 0
        if head == "segmentation":
            return parameter.narrow(dim, 0, self.num_segmentation)
        return parameter.narrow(dim, self.num_segmentation, self.num_relevance)

    def _keep_state_stock(self, layer: nn.Module) -> None:
        def narrow(layer: nn.Module, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
            for name, _ in layer.named_parameters():
                # A clone, for saving a view would save the whole tensor behind it.
                state[prefix + name] = self._rows(layer, name, state[prefix + name], "segmentation").clone()

        def widen(layer: nn.Module, state: dict[str, Any], prefix: str, *_unused: Any) -> None:
            for name, parameter in layer.named_parameters():
                stock = state.get(prefix + name)
                wide = parameter.detach().clone()
                rows = self._rows(layer, name, wide, "segmentation")
                if stock is not None and stock.shape == rows.shape:  # else torch reports the mismatch
                    rows.copy_(stock)
                    state[prefix + name] = wide

        layer.register_state_dict_post_hook(narrow)  # type: ignore[no-untyped-call]
        layer.register_load_state_dict_pre_hook(widen)  # type: ignore[no-untyped-call]

    def _split(self, _network: nn.Module, _inputs: Any, output: Any) -> Any:
        levels = output if isinstance(output, list | tuple) else [output]
        if not self.enabled:
            segmentation = [level[:, : self.num_segmentation] for level in levels]
            return segmentation if isinstance(output, list | tuple) else segmentation[0]
        # Not two slices: the gradient of each would be padded to all rows, and both added up.
        parts = [level.split((self.num_segmentation, self.num_relevance), dim=1) for level in levels]
        return [segmentation for segmentation, _ in parts] + [relevance for _, relevance in parts]

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Let the network return what the stock network returns."""
        self.enabled = False
        try:
            yield
        finally:
            self.enabled = True

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the relevance rows under the names of the parameters that they belong to."""
        return {
            f"{layer_name}.{name}": self._rows(layer, name, parameter.detach(), "relevance").clone()
            for layer_name, layer in self.layers.items()
            for name, parameter in layer.named_parameters()
        }

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Load the relevance rows that :meth:`state_dict` returned.

        Raises
        ------
        ValueError
            If names or shapes are not those of this head.
        """
        expected = {name: tuple(rows.shape) for name, rows in self.state_dict().items()}
        found = {name: tuple(rows.shape) for name, rows in state.items()}
        if expected != found:
            raise ValueError(f"The relevance head expected parameters {expected}, found {found}.")
        for layer_name, layer in self.layers.items():
            for name, parameter in layer.named_parameters():
                with torch.no_grad():
                    self._rows(layer, name, parameter, "relevance").copy_(state[f"{layer_name}.{name}"])
