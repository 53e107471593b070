"""Backbones: stacks of residual sublayers over the cells of a set, `[sets, cells, hidden]`."""
