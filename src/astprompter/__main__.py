"""``python -m astprompter``."""

from .cli.app import main

main()
