"""The command `vectordbbench omendb`."""

from typing import Annotated, Unpack

import click

from ....cli.cli import CommonTypedDict, cli, click_parameter_decorators_from_typed_dict, run
from .. import DB


class OmenDBTypedDict(CommonTypedDict):
    path: Annotated[str, click.option("--path", type=str, required=True, help="Folder, made where there is none")]
    durability: Annotated[
        str,
        click.option("--durability", type=click.Choice(["full", "normal"]), default="full", help="full: a sync a batch"),
    ]
    recall: Annotated[float, click.option("--recall", type=float, default=0.95, help="What the graph's beam is tuned to")]
    beam: Annotated[int | None, click.option("--beam", type=int, default=None, help="A beam instead of the tuned one")]
    exact: Annotated[bool, click.option("--exact", is_flag=True, default=False, help="No graph: certified exact answers")]


@cli.command()
@click_parameter_decorators_from_typed_dict(OmenDBTypedDict)
def OmenDB(**parameters: Unpack[OmenDBTypedDict]):
    from .config import OmenDBCaseConfig, OmenDBConfig

    place = {name: parameters[name] for name in ("db_label", "path", "durability")}
    case = {name: parameters[name] for name in ("recall", "beam", "exact")}
    run(db=DB.OmenDB, db_config=OmenDBConfig(**place), db_case_config=OmenDBCaseConfig(**case), **parameters)
