"""``train.py`` that is hit by a signal at a chosen moment: STOP="TERM drawing 2"."""

import os
import sys

import train
from tests.smoke.hits import Hit

if __name__ == "__main__":
    name, place, call = os.environ["STOP"].split()
    Hit(name, place, int(call)).prepare()
    sys.argv[0] = "train.py"
    train.main()
