"""``python -m astprompter``."""

from .cli import main

main()
