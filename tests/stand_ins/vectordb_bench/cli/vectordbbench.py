"""Their command line, which names each database's command."""

from ..backend.clients.milvus.cli import MilvusAutoIndex
from .cli import cli

cli.add_command(MilvusAutoIndex)


if __name__ == "__main__":
    cli()
