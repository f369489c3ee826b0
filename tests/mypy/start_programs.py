"""Starts the programs of a folder one by one, as far as `configure()`, and prints which errors they raise, as JSON.

`python start_programs.py FOLDER PROGRAM...`: one process for all, because importing torch takes longer than the rest.
"""

import importlib
import json
import sys


def start(program: str) -> tuple[str, str] | None:
    """Import a program and configure its loop, and return the class and the message of what it raises."""
    try:
        importlib.import_module(program).configure()
    except Exception as error:  # noqa: BLE001 -- any error is what the caller asks for
        return type(error).__name__, str(error)
    return None


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    found = {program: raised for program in sys.argv[2:] if (raised := start(program)) is not None}
    sys.stdout.write(json.dumps(found))
