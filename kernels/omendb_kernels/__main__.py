"""`python -m omendb_kernels`: this machine's facts and the backends it can use, as JSON."""

import json

from . import facts, list_backends

if __name__ == "__main__":
    print(json.dumps({**facts(), "backends": {name: why or "usable" for name, why in list_backends().items()}}, indent=2))
