"""The part of the command line that is about data sets: flags and nothing else."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def data_commands(commands: Any) -> None:
    """Add `data` and its own commands to the parser's."""
    text = "data sets: which there are, where they are cached, how they come there"
    data = commands.add_parser("data", help=text, description=text, allow_abbrev=False)
    actions = data.add_subparsers(title="commands", required=True, metavar="COMMAND")
    tell = actions.add_parser("list", help="every data set with a name", allow_abbrev=False)
    tell.set_defaults(command=_data_list)
    info = actions.add_parser("info", help="all about one of them", allow_abbrev=False)
    info.set_defaults(command=_data_info)
    prepare = actions.add_parser("prepare", help="put one into the cache", allow_abbrev=False)
    prepare.set_defaults(command=_data_prepare)
    for parser in (info, prepare):
        parser.add_argument("name", metavar="NAME")
    prepare.add_argument(
        "--from", dest="source", type=Path, metavar="PATH", help="raw files, or a TFDS directory"
    )
    prepare.add_argument(
        "--crop", type=int, metavar="PIXELS", help="of the center crop of celeb_a (default: 140)"
    )
    prepare.add_argument("--download", action="store_true", help="by TFDS, in its own process")
    prepare.add_argument(
        "--unverified", action="store_true", help="accept files of another SHA-256 than published"
    )


def _data_list(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from vaejax.data.prepare import listing

    print(listing())
    return 0


def _data_info(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from vaejax.data.prepare import information

    print(information(arguments.name))
    return 0


def _data_prepare(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from vaejax.data.prepare import prepare

    done = prepare(
        arguments.name,
        arguments.source,
        crop=arguments.crop,
        download=arguments.download,
        verify=not arguments.unverified,
    )
    print(done)
    return 0
