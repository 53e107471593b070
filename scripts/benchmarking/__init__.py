"""How fast a run is: one worker process a case, measured in turns, and a table of what came out.

    case      what is measured: a variant, a backbone, a loss, a dtype, at a size
    worker    the process of one case: trains when it is told to, and answers with figures
    peer      the same for the PyTorch original, under the Python of another environment
    pool      starts workers, hands out turns, stops them
    figures   medians, spreads and ratios, as a table and as JSON
    seeds     what it gains to train seeds in one program, by a function of its own

The command is scripts/benchmark.py; docs/benchmarks.md says how its figures are to be read.
"""
