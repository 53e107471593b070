"""RNA velocity of cells: reading it, estimating it, projecting it, and asking whether it helps."""
