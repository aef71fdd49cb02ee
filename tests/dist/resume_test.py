"""A killed run goes on to the same end: a short form of bar 4 (tests/bars/kill_resume.py), each named point of a save once, three
random moments, both signals. Exit status 0 or 1."""

import pathlib
import subprocess
import sys

bars = pathlib.Path(__file__).resolve().parents[1] / "bars"

if __name__ == "__main__":
    sys.exit(subprocess.run([sys.executable, bars / "kill_resume.py", "--quick", "--random", "3"]).returncode)
