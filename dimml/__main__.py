"""Run the `dimml` command as `python -m dimml`."""

from dimml.cli import main

main()
