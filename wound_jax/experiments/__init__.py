"""Experiments: variants x seeds x folds, from one file to tables.

A comparison has one fold, the split of its configs; a leave-one-out has one for each label.

    spec      the file: variants, seeds, what they share, what is left out
    plan      the runs it asks for, each with its complete config and its folder
    cells     prepared cells and their reference, shared by the runs that read the same
    schedule  what is missing is trained, or goes on, seeds together where they can
    finished  runs as they lie on disk; agreement: whether they may be compared
    scores    the seeds of a variant, alone and as an ensemble, on the held-out cells of a fold
    figures   over seeds and over folds; tables: how they are written
    run       the whole of it; ensemble: runs that differ in their seed as one model
"""
