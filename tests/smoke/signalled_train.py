"""``train.py`` that is hit by a signal at a chosen moment: STOP="TERM drawing 2".

STOP="USR1 step 2 parent" hits the process that started it, such as the script of a job.
"""

import os
import sys

import train
from tests.smoke.hits import Hit

if __name__ == "__main__":
    name, place, call, *parent = os.environ["STOP"].split()
    Hit(name, place, int(call), hits_parent=bool(parent)).prepare()
    sys.argv[0] = "train.py"
    train.main()
