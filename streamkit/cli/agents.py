"""`streamkit agents`: what an app declares, and what is left of it on the cluster."""

from __future__ import annotations

import click

from streamkit.cli.options import Command, brokers_option, epilog, target


@click.command(cls=Command, epilog=epilog("streamkit agents shop --json"))
@target
@brokers_option
@click.option("--json", "as_json", is_flag=True, help="For machines; docs/cli.md lists the keys.")
def agents(target: str, brokers: str | None, as_json: bool) -> None:
    """Show the agents and topics of TARGET (module:app, or module).

    And its orphans: retry topics and groups of the app that nothing declares any more. Without a cluster to ask, only
    what is declared.
    """
    import asyncio
    import logging
    import os

    from streamkit.cli.inventory import ask, inventory
    from streamkit.cli.target import load_app
    from streamkit.cli.transports import transport_for

    app = load_app(target)
    settings = app.settings({"brokers": brokers}, os.environ)
    logging.disable()  # what goes wrong from here on is part of the answer
    found = inventory(app, asyncio.run(ask(app, settings, transport_for(settings))))
    if as_json:
        import orjson

        click.echo(orjson.dumps(found.as_json(), option=orjson.OPT_INDENT_2))
    else:
        from streamkit.cli.tables import show

        show(found)
