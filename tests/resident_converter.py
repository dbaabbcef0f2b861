"""The converter's program, answering any number of requests: its libraries take a second to load.

Runs in the converter's own environment. Arguments: the program's file. Each line of standard input is
a request file; a line comes back when it is answered.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the converter prints is not an answer
    spec = importlib.util.spec_from_file_location("program", sys.argv[1])
    assert spec is not None
    assert spec.loader is not None
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    for line in sys.stdin:
        program.main(Path(line.rstrip("\n")))
        answers.write("answered\n")
        answers.flush()


if __name__ == "__main__":
    main()
