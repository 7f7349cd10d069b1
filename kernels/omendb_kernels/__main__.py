"""`python -m omendb_kernels`: this machine's facts, the backends it can use, and what they are expected to do, as JSON."""

import json

from . import devices

if __name__ == "__main__":
    print(json.dumps(devices(), indent=2))
