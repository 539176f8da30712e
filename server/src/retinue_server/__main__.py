"""`python -m retinue_server` is the command `retinue-server`."""

from retinue_server.cli import main

main()
