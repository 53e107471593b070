"""What a compiled program says of its loops and of the talk between devices."""

import re

COLLECTIVE = re.compile(r"all-reduce|all-gather|collective-permute|all-to-all|reduce-scatter")


def loops(text: str) -> list[str]:
    """The bodies and conditions of all while loops of a compiled program, with what they call."""
    computations = {
        match[1]: match[0]
        for match in re.finditer(r"^%?([\w.\-]+) \([^\n]*\{\n.*?^\}", text, re.M | re.S)
    }
    names = set(re.findall(r"(?:body|condition)=%?([\w.\-]+)", text))
    assert names <= set(computations)
    seen: set[str] = set()
    while names:
        name = names.pop()
        if name not in seen:
            seen.add(name)
            called = re.findall(
                r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)", computations[name]
            )
            names |= set(called) & set(computations)
    return [computations[name] for name in seen]


def talking(text: str) -> list[str]:
    """The loops in which devices talk to each other."""
    return [loop for loop in loops(text) if COLLECTIVE.search(loop)]
