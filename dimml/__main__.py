"""`python -m dimml`: the same as the `dimml` command."""

from dimml.cli import main

main()
