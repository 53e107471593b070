"""The set transformer: layers, adapters, backbones, and the functional form training uses."""
